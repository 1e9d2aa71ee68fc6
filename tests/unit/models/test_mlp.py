from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.errors import ConfigError
from esper.models.mlp import MLP


def test_its_layers_lie_in_one_container() -> None:
    """A seed in parallel to `body` reaches from the inputs to the logits."""
    model = MLP(10, 1, (28, 28), hidden=[16, 16])
    assert sum(parameter.numel() for parameter in model.parameters()) == 13_002
    assert [name for name, _ in model.body.named_children()] == ["fc1", "act1", "fc2", "act2", "fc3"]
    images = torch.randn(4, 1, 28, 28)
    assert torch.equal(model(images), model.body(images.flatten(1)))


@pytest.mark.parametrize(("activation", "kind"), [("gelu", nn.GELU), ("relu", nn.ReLU)])
def test_activation_and_dropout_are_as_asked(activation: str, kind: type[nn.Module]) -> None:
    model = MLP(3, 2, (4, 5), hidden=[6], activation=activation, dropout=0.5)
    assert isinstance(model.body.act1, kind) and isinstance(model.body.drop1, nn.Dropout)
    assert model.body.fc1.in_features == 40
    images = torch.randn(2, 2, 4, 5)
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ConfigError, match="activation is 'tanh'; it must be one of gelu, relu"):
        MLP(3, 2, (4, 5), activation="tanh")

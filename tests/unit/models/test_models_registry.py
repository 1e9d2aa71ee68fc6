from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.errors import ConfigError
from esper.models import MODELS, build

SMALL: dict[str, dict[str, Any]] = {
    "convnet": {},
    "mlp": {"hidden": [8]},
    "resnet18": {"width": 4},
    "resnet34": {"width": 4},
    "vit": {"dim": 8, "depth": 2, "heads": 2},
}


def built(name: str, size: tuple[int, int] = (8, 8), channels: int = 1) -> nn.Module:
    return build(name, num_classes=7, channels=channels, image_size=size, **SMALL[name])


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 48)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_fits_the_facts_of_its_dataset(name: str, channels: int, size: tuple[int, int]) -> None:
    model = built(name, size, channels)
    logits = model(torch.randn(3, channels, *size))
    assert logits.shape == (3, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), "nothing is left out"


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_copies_and_saves(name: str) -> None:
    model = built(name).eval()
    inputs = torch.randn(2, 1, 8, 8)
    expected = model(inputs)
    torch.manual_seed(1)
    other = built(name).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(inputs), expected)
    assert torch.equal(deepcopy(model)(inputs), expected)


@pytest.mark.parametrize("name", ["convnet", "vit"])
def test_a_model_is_one_graph_to_the_compiler(name: str) -> None:
    """Those whose forward is more than a chain of calls."""
    model = built(name).eval()
    inputs = torch.randn(2, 1, 8, 8)
    expected = model(inputs)
    model.compile(backend="eager", fullgraph=True)
    assert torch.allclose(model(inputs), expected, atol=1e-6)


@pytest.mark.parametrize("name", MODELS.names())
def test_no_activation_overwrites_what_a_hook_sees(name: str) -> None:
    """Seeds and probes hook any layer."""
    model = built(name)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in model.modules():
        module.register_forward_hook(lambda _m, _i, out: seen.append((out, out.detach().clone())))
    model(torch.randn(2, 1, 8, 8))
    assert len(seen) > 3 and all(torch.equal(now, then) for now, then in seen)


def test_the_registry_is_a_mapping_that_loads_no_torch() -> None:
    code = (
        "import sys; from esper.models import MODELS\n"
        "assert MODELS.names() == ['convnet', 'mlp', 'resnet18', 'resnet34', 'vit'] == sorted(MODELS)\n"
        "assert len(MODELS) == 5 and 'vgg' not in MODELS and 'mlp' in MODELS and 'torch' not in sys.modules\n"
        "MODELS['mlp']; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("resnet81", {}, "model.architecture is 'resnet81', which is unknown; did you mean 'resnet18'"),
        ("mlp", {"hiden": [3]}, r"model_params\.hiden is unknown to mlp; did you mean 'hidden'"),
        ("resnet18", {"depths": [1, 1, 1, 1]}, "depths is unknown to resnet18; .*Known: stem, width"),
        ("mlp", {"a": 1, "b": 2}, r"(?s)model_params\.a .*model_params\.b "),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest(
    name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, num_classes=2, channels=1, image_size=(8, 8), **params)

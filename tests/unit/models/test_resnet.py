from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.errors import ConfigError
from esper.models.resnet import resnet18, resnet34


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_those_of_the_paper() -> None:
    """The known counts, with the stem for small images and the one for large."""
    with torch.device("meta"):
        assert params(resnet18(10, 3, (32, 32))) == 11_173_962
        assert params(resnet18(1000, 3, (224, 224))) == 11_689_512
        assert params(resnet34(1000, 3, (224, 224))) == 21_797_672


def test_parameter_names_are_those_that_saved_weights_have() -> None:
    names = set(resnet18(10, 3, (224, 224), width=4).state_dict())
    for name in ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer4.1.bn2.bias", "fc.bias"):
        assert name in names
    assert "layer2.0.downsample.0.weight" in names and "layer2.0.downsample.1.num_batches_tracked" in names
    assert len(names) == 122


@pytest.mark.parametrize(
    ("size", "stem", "side"),
    [(32, "auto", 32), (64, "auto", 64), (65, "auto", 17), (32, "large", 8), (96, "small", 96)],
)
def test_small_images_keep_their_resolution_in_the_stem(size: int, stem: str, side: int) -> None:
    model = resnet18(10, 3, (size, size), width=2, stem=stem)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("layer1", "layer4"):
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    model(torch.randn(2, 3, size, size))
    assert shapes == {"layer1": (2, side, side), "layer4": (16, -(-side // 8), -(-side // 8))}


@pytest.mark.parametrize(("size", "stem", "least"), [((7, 32), "auto", 8), ((31, 31), "large", 32)])
def test_images_that_vanish_are_refused(size: tuple[int, int], stem: str, least: int) -> None:
    with pytest.raises(ConfigError, match=f"too small for resnet, .*at least {least}"):
        resnet18(10, 3, size, width=2, stem=stem)


def test_a_block_is_its_shortcut_plus_what_it_learnt() -> None:
    block = resnet18(10, 3, (8, 8), width=2).layer1[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(block(x), x.relu())

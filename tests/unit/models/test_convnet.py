from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.errors import ConfigError
from esper.models.convnet import ConvNet


def test_the_default_has_the_size_that_the_bars_speak_of() -> None:
    model = ConvNet(10, 1, (28, 28))
    assert sum(parameter.numel() for parameter in model.parameters()) == 6274


def test_each_block_is_a_container_with_its_width_and_stride() -> None:
    """Seeds sit at the output of a block."""
    model = ConvNet(5, 3, (16, 16), widths=[4, 6], strides=[2, 4])
    shapes = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    model(torch.randn(2, 3, 16, 16))
    assert shapes == {"block1": (4, 8, 8), "block2": (6, 2, 2), "pool": (6, 1, 1), "fc": (5,)}
    assert isinstance(model.block1, nn.Sequential)


def test_widths_and_strides_belong_together() -> None:
    with pytest.raises(ConfigError, match="strides has 1 entries, widths has 2"):
        ConvNet(5, 3, (16, 16), widths=[4, 6], strides=[2])


def test_images_that_vanish_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="images of 3 x 8 pixels are too small for convnet, whose strides make 4"
    ):
        ConvNet(10, 1, (3, 8))

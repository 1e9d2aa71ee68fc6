"""Convolutional blueprints. They contain batch norm: without it, equal seeds gained about a point less."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints.cost import Cost, SiteShape, affine, dense
from esper.kasmina.blueprints.layers import batch_norm, conv, hidden_sizes, needs_conv, zero_init
from esper.kasmina.blueprints.registry import Option, register_blueprint


class ChannelsLastMemory(nn.Sequential):
    """Runs layers on images in channels-last memory format: depthwise steps are a third faster on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = super().forward(x)
        return out.contiguous()


def _sizes(shape: SiteShape) -> list[dict[str, Option]]:
    return [{"hidden": hidden} for hidden in hidden_sizes(shape)]


def _taps(shape: SiteShape) -> int:
    return int(math.pow(3, len(shape.space_out)))


def _heavy_cost(shape: SiteShape, *, hidden: int = 16) -> Cost:
    positions, taps = shape.positions_out, _taps(shape)
    first = dense(positions, shape.channels_in, hidden, kernel=taps) + affine(hidden)
    return first + dense(positions, hidden, shape.channels_out, kernel=taps)


@register_blueprint("conv_heavy", fits=needs_conv, offers=_sizes, count=_heavy_cost)
def conv_heavy(shape: SiteShape, *, hidden: int = 16) -> nn.Module:
    """Two 3x3 convolutions with batch norm and ReLU between them."""
    return nn.Sequential(
        conv(shape, shape.channels_in, hidden, 3, strides=shape.strides),
        batch_norm(shape, hidden),
        nn.ReLU(),
        zero_init(conv(shape, hidden, shape.channels_out, 3)),
    )


def _light_cost(shape: SiteShape, *, hidden: int = 16) -> Cost:
    first = dense(shape.positions_in, shape.channels_in, hidden) + affine(hidden)
    return first + dense(shape.positions_out, hidden, shape.channels_out, kernel=_taps(shape))


@register_blueprint("conv_light", fits=needs_conv, offers=_sizes, count=_light_cost)
def conv_light(shape: SiteShape, *, hidden: int = 16) -> nn.Module:
    """A 1x1 convolution, batch norm, ReLU, then a 3x3 convolution: about half of conv_heavy's cost."""
    return nn.Sequential(
        conv(shape, shape.channels_in, hidden, 1),
        batch_norm(shape, hidden),
        nn.ReLU(),
        zero_init(conv(shape, hidden, shape.channels_out, 3, strides=shape.strides)),
    )


def _depthwise_cost(shape: SiteShape, *, hidden: int = 16) -> Cost:
    first = dense(shape.positions_in, shape.channels_in, hidden) + affine(hidden)
    # one input channel for each of the `hidden` output channels
    middle = dense(shape.positions_out, 1, hidden, kernel=_taps(shape)) + affine(hidden)
    return first + middle + dense(shape.positions_out, hidden, shape.channels_out)


@register_blueprint("depthwise", fits=needs_conv, offers=_sizes, count=_depthwise_cost)
def depthwise(shape: SiteShape, *, hidden: int = 16) -> nn.Module:
    """Depthwise-separable: 1x1 up, 3x3 on each channel by itself, 1x1 down, batch norm and ReLU between."""
    return ChannelsLastMemory(
        conv(shape, shape.channels_in, hidden, 1),
        batch_norm(shape, hidden),
        nn.ReLU(),
        conv(shape, hidden, hidden, 3, strides=shape.strides, groups=hidden),
        batch_norm(shape, hidden),
        nn.ReLU(),
        zero_init(conv(shape, hidden, shape.channels_out, 1)),
    )

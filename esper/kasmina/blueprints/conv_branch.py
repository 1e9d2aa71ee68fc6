"""A convolutional branch in parallel to many layers: from an image or a sequence to features."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from esper.kasmina.blueprints.cost import Cost, SiteShape, affine, dense
from esper.kasmina.blueprints.layers import widths, zero_init
from esper.kasmina.blueprints.registry import Option, register_blueprint

_GRID = 2  # cells per axis that are left for the linear layer, which keeps some spatial information
_SMALLEST = 4  # smaller images are too small for two strides
_MAX_HIDDEN = 64

_CONVS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
_POOLS: dict[int, type[nn.AdaptiveAvgPool1d] | type[nn.AdaptiveAvgPool2d]] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
}


@dataclass(frozen=True, slots=True)
class _Stage:
    """One convolution of kernel 3: channels in and out, stride, and the size of its output."""

    channels_in: int
    channels_out: int
    stride: int
    size: tuple[int, ...]


def _fits(shape: SiteShape) -> str | None:
    if not shape.flattens or len(shape.in_shape) not in (2, 3) or min(shape.in_shape[1:]) < _SMALLEST:
        return f"it leads from an image or a sequence, at least {_SMALLEST} long, to features"
    return None


def _sizes(shape: SiteShape) -> list[dict[str, Option]]:
    return [{"hidden": hidden, "depth": depth} for hidden in widths(_MAX_HIDDEN) for depth in (2, 3)]


def _stages(shape: SiteShape, hidden: int, depth: int) -> list[_Stage]:
    """Return the stages: stride 2 until the grid is reached; channels double in the first three."""
    stages: list[_Stage] = []
    channels, size = shape.in_shape[0], tuple(shape.in_shape[1:])
    for number in range(depth):
        stride = 2 if min(size) >= 2 * _GRID else 1
        size = tuple(-(-n // stride) for n in size)
        stages.append(_Stage(channels, hidden * 2 ** min(number, 2), stride, size))
        channels = stages[-1].channels_out
    return stages


def _cells(last: _Stage) -> tuple[int, ...]:
    return tuple(min(_GRID, n) for n in last.size)


def _cost(shape: SiteShape, *, hidden: int = 16, depth: int = 2) -> Cost:
    stages = _stages(shape, hidden, depth)
    taps = 3 ** (len(shape.in_shape) - 1)
    total = Cost(0, 0)
    for s in stages:
        total += dense(math.prod(s.size), s.channels_in, s.channels_out, kernel=taps) + affine(s.channels_out)
    width = stages[-1].channels_out * math.prod(_cells(stages[-1]))
    return total + dense(1, width, shape.channels_out, bias=True)


@register_blueprint("conv_branch", fits=_fits, offers=_sizes, count=_cost)
def conv_branch(shape: SiteShape, *, hidden: int = 16, depth: int = 2) -> nn.Module:
    """A small convnet beside the host: convolutions of stride 2, batch norm, ReLU; average pool, linear."""
    axes = len(shape.in_shape) - 1
    stages = _stages(shape, hidden, depth)
    layers: list[nn.Module] = []
    for s in stages:
        conv = _CONVS[axes](s.channels_in, s.channels_out, 3, s.stride, 1, bias=False)
        layers += [conv, _NORMS[axes](s.channels_out), nn.ReLU()]
    cells = _cells(stages[-1])
    pool = _POOLS[axes](cells)
    width = stages[-1].channels_out * math.prod(cells)
    return nn.Sequential(*layers, pool, nn.Flatten(), zero_init(nn.Linear(width, shape.channels_out)))

"""Layers and helpers that several blueprints share: hidden widths, zero initialisation, layers by layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from esper.errors import GrowthError
from esper.kasmina.blueprints.cost import SiteShape

# Multiples of 4 that are about a quarter apart: finer steps do not justify an extra candidate.
WIDTHS = (
    *(4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768),
    *(1024, 1280, 1536, 2048, 2560, 3072, 4096),
)

_CONVS: dict[str, type[nn.Conv1d] | type[nn.Conv2d]] = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d}
_NORMS: dict[str, type[nn.Module]] = {"conv1d": nn.BatchNorm1d, "conv2d": nn.BatchNorm2d}
_POOLS: dict[str, type[nn.Module]] = {"conv1d": nn.AvgPool1d, "conv2d": nn.AvgPool2d}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

M = TypeVar("M", bound=nn.Module)


def widths(limit: float) -> list[int]:
    """Return the hidden widths up to `limit`; at least the smallest."""
    return [w for w in WIDTHS if w <= limit] or [WIDTHS[0]]


def hidden_sizes(shape: SiteShape) -> list[int]:
    """Return the hidden widths up to four times the channels."""
    return widths(4 * max(shape.channels_in, shape.channels_out))


def zero_init(layer: M) -> M:
    """Set a layer's parameters to zero and return it, so that a new seed's output is zero.

    Only for a seed's last layer: with zero incoming weights, a ReLU unit would never get a gradient.
    """
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def conv(
    shape: SiteShape,
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    strides: Sequence[int] | None = None,
    groups: int = 1,
) -> nn.Module:
    """A convolution of the layout's kind, without bias, padded so that stride 1 keeps the size."""
    stride = tuple(strides or (1,) * len(shape.space_out))
    make = _CONVS[shape.layout]
    # the length of the tuple depends on the class, which the type of `stride` cannot express
    return make(
        channels_in,
        channels_out,
        kernel,
        stride=stride,  # type: ignore[arg-type]
        padding=kernel // 2,
        groups=groups,
        bias=False,
    )


def batch_norm(shape: SiteShape, channels: int) -> nn.Module:
    return _NORMS[shape.layout](channels)


def average_pool(shape: SiteShape) -> nn.Module:
    """Average pooling from the input's spatial size to the output's; does nothing where they are equal."""
    if not shape.is_conv or set(shape.strides) == {1}:
        return nn.Identity()
    return _POOLS[shape.layout](shape.strides, ceil_mode=True, count_include_pad=False)


def activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise GrowthError(f"unknown activation {name!r}; there are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class ChannelsLast(nn.Module):
    """Runs a module that works on the last axis over the channels of a convolutional layout."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x.movedim(1, -1)).movedim(-1, 1)
        return out


def as_features(shape: SiteShape, *layers: nn.Module) -> nn.Module:
    """Return the layers in sequence, after flattening the input where the site needs it."""
    return nn.Sequential(*([nn.Flatten()] if shape.flattens else []), *layers)


def needs_features(shape: SiteShape) -> str | None:
    if shape.is_conv:
        return f"it works on features, not on layout {shape.layout!r}"
    return shape.mismatch()


def needs_conv(shape: SiteShape) -> str | None:
    """For blueprints that hold batch norm, which cannot train on one value a channel."""
    if not shape.is_conv:
        return f"it works on layouts 'conv1d' and 'conv2d', not on {shape.layout!r}"
    if shape.mismatch() is None and shape.positions_out == 1:
        return "the output has a single position, where batch norm has nothing to average over"
    return shape.mismatch()


def needs_same(shape: SiteShape) -> str | None:
    if shape.in_shape != shape.out_shape:
        return f"it keeps the shape, and {shape.in_shape} is not {shape.out_shape}"
    return None

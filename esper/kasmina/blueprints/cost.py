"""The shapes that a seed must map, and the cost of a module."""

from __future__ import annotations

import math
from dataclasses import dataclass

from esper.errors import GrowthError

# Axes after the batch that a layout has; "features" has one or more, features last.
_RANKS = {"features": None, "conv1d": 2, "conv2d": 3}


@dataclass(frozen=True, slots=True)
class SiteShape:
    """Shapes that a seed must fit, of one sample, without the batch.

    Args:
        layout: "features" (..., F), "conv1d" (C, L) or "conv2d" (C, H, W).
        in_shape: shape of the seed's input: the layer's output for "series", its input for "parallel".
        out_shape: shape of the layer's output.

    Raises:
        GrowthError: the layout is unknown, or `out_shape` does not match it.

    Example:
        >>> SiteShape("conv2d", (8, 16, 16), (16, 8, 8)).strides
        (2, 2)
    """

    layout: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.layout not in _RANKS:
            raise GrowthError(f"unknown layout {self.layout!r}; there are: {', '.join(_RANKS)}")
        if not self.out_shape or len(self.out_shape) != (_RANKS[self.layout] or len(self.out_shape)):
            raise GrowthError(f"{self.out_shape} is not the shape of one sample in layout {self.layout!r}")
        if min((*self.in_shape, *self.out_shape)) < 1:
            raise GrowthError(f"shapes {self.in_shape} and {self.out_shape} must hold sizes of at least 1")

    @property
    def is_conv(self) -> bool:
        return self.layout != "features"

    @property
    def flattens(self) -> bool:
        """Whether features are made from all of the input, whatever its shape (an image to logits)."""
        return not self.is_conv and len(self.out_shape) == 1 and len(self.in_shape) != 1

    @property
    def channels_in(self) -> int:
        if self.flattens:
            return math.prod(self.in_shape)
        return self.in_shape[0] if self.is_conv else self.in_shape[-1]

    @property
    def channels_out(self) -> int:
        return self.out_shape[0] if self.is_conv else self.out_shape[-1]

    @property
    def space_in(self) -> tuple[int, ...]:
        """Sizes of the axes other than the channels'."""
        if self.flattens:
            return ()
        return self.in_shape[1:] if self.is_conv else self.in_shape[:-1]

    @property
    def space_out(self) -> tuple[int, ...]:
        return self.out_shape[1:] if self.is_conv else self.out_shape[:-1]

    @property
    def positions_in(self) -> int:
        return math.prod(self.space_in)

    @property
    def positions_out(self) -> int:
        return math.prod(self.space_out)

    @property
    def strides(self) -> tuple[int, ...]:
        """Input positions per output position, for each axis; 0 on an axis where no stride fits."""
        return tuple(_stride(a, b) for a, b in zip(self.space_in, self.space_out, strict=True))

    def mismatch(self) -> str | None:
        """Return why no module can map `in_shape` to `out_shape`, or None where one can."""
        change = f"from {self.in_shape} to {self.out_shape}"
        if self.flattens:
            return None
        if len(self.in_shape) != len(self.out_shape):
            return f"no way {change}: the shapes differ in their number of axes"
        if self.is_conv and 0 in self.strides:
            return f"no stride leads {change}: a spatial size is not a whole multiple of the output's"
        if not self.is_conv and self.space_in != self.space_out:
            return f"no way {change}: only the last axis may change"
        return None


def _stride(size_in: int, size_out: int) -> int:
    stride = -(-size_in // size_out)
    # the output size of a padded 3x3, a 1x1 and a rounded-up pooling for that stride
    return stride if -(-size_in // stride) == size_out else 0


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a seed's module.

    Args:
        params: number of parameters.
        flops: floating-point operations per sample of a forward. A multiplication and an addition count as
            two; only matrix products and convolutions count, as in `torch.utils.flop_counter`.

    Example:
        >>> Cost(10, 20) + Cost(1, 2)
        Cost(params=11, flops=22)
    """

    params: int
    flops: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.flops + other.flops)


def dense(
    positions: int, channels_in: int, channels_out: int, *, kernel: int = 1, bias: bool = False
) -> Cost:
    """Return the cost of a Linear or convolution with `positions` outputs per sample and `kernel` taps."""
    weights = channels_in * channels_out * kernel
    return Cost(weights + (channels_out if bias else 0), 2 * positions * weights)


def affine(channels: int) -> Cost:
    """Return the cost of a norm with scale and shift."""
    return Cost(2 * channels, 0)

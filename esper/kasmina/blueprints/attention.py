"""Blueprints that mix information over all positions: attention, and squeeze-and-excite."""

from __future__ import annotations

import math

from torch import Tensor, nn

from esper.errors import GrowthError
from esper.kasmina.blueprints.cost import Cost, SiteShape, affine, dense
from esper.kasmina.blueprints.layers import (
    ChannelsLast,
    average_pool,
    hidden_sizes,
    needs_same,
    widths,
    zero_init,
)
from esper.kasmina.blueprints.registry import Option, register_blueprint

# The matrix of attention weights grows with the square of the positions.
_MAX_POSITIONS = 1024
_HEAD_WIDTH, _MAX_HEADS = 16, 8


class SelfAttention(nn.Module):
    """Multi-head self-attention over (batch, ..., features_in), every axis in between being positions."""

    def __init__(self, features_in: int, features_out: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(features_in)
        self.qkv = nn.Linear(features_in, 3 * hidden, bias=False)
        self.out = zero_init(nn.Linear(hidden, features_out))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(1, -2)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # written out: torch's FLOP counter does not count the fused CPU kernel
        weights = ((q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(-2)
        out: Tensor = self.out(mixed)
        return out.unflatten(1, x.shape[1:-1])


def _heads(hidden: int) -> int:
    wanted = max(1, min(_MAX_HEADS, hidden // _HEAD_WIDTH))
    return next(heads for heads in range(wanted, 0, -1) if hidden % heads == 0)


def _attention_fits(shape: SiteShape) -> str | None:
    if shape.flattens or not 1 < shape.positions_out <= _MAX_POSITIONS:
        return f"it needs 2 to {_MAX_POSITIONS} positions to attend over, and {shape.out_shape} has other"
    return shape.mismatch()


def _attention_sizes(shape: SiteShape) -> list[dict[str, Option]]:
    limit = max(shape.channels_in, shape.channels_out)
    return [{"hidden": hidden, "heads": _heads(hidden)} for hidden in widths(limit)]


def _attention_cost(shape: SiteShape, *, hidden: int = 16, heads: int = 1) -> Cost:
    positions = shape.positions_out
    projections = affine(shape.channels_in) + dense(positions, shape.channels_in, 3 * hidden)
    mixing = Cost(0, 2 * 2 * positions * positions * hidden)
    return projections + mixing + dense(positions, hidden, shape.channels_out, bias=True)


@register_blueprint("attention", fits=_attention_fits, offers=_attention_sizes, count=_attention_cost)
def attention(shape: SiteShape, *, hidden: int = 16, heads: int = 1) -> nn.Module:
    """Multi-head self-attention over positions, layer norm first."""
    if hidden % heads:
        raise GrowthError(f"attention: hidden is {hidden}, which {heads} heads cannot share evenly")
    body = SelfAttention(shape.channels_in, shape.channels_out, hidden, heads)
    return nn.Sequential(average_pool(shape), ChannelsLast(body)) if shape.is_conv else body


class SqueezeExcite(nn.Module):
    """Scales each feature by a factor in (-1, 1) made from the means over positions."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(features, hidden)
        self.act = nn.ReLU()
        self.up = zero_init(nn.Linear(hidden, features))

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.flatten(1, -2).mean(1) if x.dim() > 2 else x
        factor: Tensor = self.up(self.act(self.down(pooled))).tanh()
        return x * factor.view(x.shape[0], *(1,) * (x.dim() - 2), -1)


def _excite_sizes(shape: SiteShape) -> list[dict[str, Option]]:
    return [{"hidden": hidden} for hidden in hidden_sizes(shape) if hidden <= max(4, shape.channels_in)]


def _excite_cost(shape: SiteShape, *, hidden: int = 16) -> Cost:
    channels = shape.channels_in
    return dense(1, channels, hidden, bias=True) + dense(1, hidden, channels, bias=True)


@register_blueprint("squeeze_excite", fits=needs_same, offers=_excite_sizes, count=_excite_cost)
def squeeze_excite(shape: SiteShape, *, hidden: int = 16) -> nn.Module:
    """Squeeze-and-excite: scales each channel by 0 to 2, sample by sample."""
    body = SqueezeExcite(shape.channels_in, hidden)
    return ChannelsLast(body) if shape.is_conv else body

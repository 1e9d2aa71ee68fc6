"""Blueprints that work on features, position by position."""

from __future__ import annotations

from torch import nn

from esper.kasmina.blueprints.cost import Cost, SiteShape, affine, dense
from esper.kasmina.blueprints.layers import (
    activation as make_activation,
)
from esper.kasmina.blueprints.layers import (
    as_features,
    average_pool,
    conv,
    hidden_sizes,
    needs_features,
    widths,
    zero_init,
)
from esper.kasmina.blueprints.registry import Option, register_blueprint

# Layer norm removes almost all information from fewer features than this, and all of it from one.
NORM_FROM = 4


def _mlp_sizes(shape: SiteShape) -> list[dict[str, Option]]:
    normed = shape.channels_in >= NORM_FROM
    # a second hidden layer pays where the seed bridges several layers of the host
    depths = (1,) if shape.in_shape == shape.out_shape else (1, 2)
    return [{"hidden": h, "depth": d, "norm": normed} for h in hidden_sizes(shape) for d in depths]


def _mlp_cost(
    shape: SiteShape, *, hidden: int = 16, depth: int = 1, norm: bool = True, activation: str = "gelu"
) -> Cost:
    positions = shape.positions_out
    total = affine(shape.channels_in) if norm else Cost(0, 0)
    total += dense(positions, shape.channels_in, hidden, bias=True)
    for _ in range(depth - 1):
        total += dense(positions, hidden, hidden, bias=True)
    return total + dense(positions, hidden, shape.channels_out, bias=True)


@register_blueprint("mlp", fits=needs_features, offers=_mlp_sizes, count=_mlp_cost)
def mlp(
    shape: SiteShape, *, hidden: int = 16, depth: int = 1, norm: bool = True, activation: str = "gelu"
) -> nn.Module:
    """Residual MLP: layer norm, `depth` hidden layers with an activation, linear.

    Without norm and at depth 1, in parallel to Linear-activation-Linear, it is exactly a wider hidden layer.
    """
    layers: list[nn.Module] = [nn.LayerNorm(shape.channels_in)] if norm else []
    width = shape.channels_in
    for _ in range(depth):
        layers += [nn.Linear(width, hidden), make_activation(activation)]
        width = hidden
    return as_features(shape, *layers, zero_init(nn.Linear(width, shape.channels_out)))


def _low_rank_sizes(shape: SiteShape) -> list[dict[str, Option]]:
    full = shape.channels_in * shape.channels_out
    # above this rank the two factors cost more than the full matrix
    limit = full / (shape.channels_in + shape.channels_out)
    return [{"rank": rank} for rank in (1, 2, *widths(limit)) if rank <= max(1, limit)]


def _low_rank_cost(shape: SiteShape, *, rank: int = 4) -> Cost:
    first = dense(shape.positions_out, shape.channels_in, rank)
    return first + dense(shape.positions_out, rank, shape.channels_out)


def _any_layout(shape: SiteShape) -> str | None:
    return shape.mismatch()


@register_blueprint("low_rank", fits=_any_layout, offers=_low_rank_sizes, count=_low_rank_cost)
def low_rank(shape: SiteShape, *, rank: int = 4) -> nn.Module:
    """Linear map of low rank at each position (1x1 convolutions in a convolutional layout)."""
    if shape.is_conv:
        down = conv(shape, shape.channels_in, rank, 1)
        return nn.Sequential(average_pool(shape), down, zero_init(conv(shape, rank, shape.channels_out, 1)))
    down = nn.Linear(shape.channels_in, rank, bias=False)
    return as_features(shape, down, zero_init(nn.Linear(rank, shape.channels_out, bias=False)))

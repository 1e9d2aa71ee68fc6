"""Small blueprints: norm, no-op, and harmful noise as a test of the pruning rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina.blueprints.convolution import conv_heavy
from esper.kasmina.blueprints.cost import Cost, SiteShape, affine
from esper.kasmina.blueprints.features import NORM_FROM, mlp
from esper.kasmina.blueprints.layers import (
    batch_norm,
    needs_conv,
    needs_features,
    needs_same,
    zero_init,
)
from esper.kasmina.blueprints.registry import Option, get_blueprint, register_blueprint

# So small that no body could cancel the fresh noise.
_BODY_SHARE = 0.1


def _norm_fits(shape: SiteShape) -> str | None:
    return needs_same(shape) or (needs_conv(shape) if shape.is_conv else None)


def _norm_cost(shape: SiteShape) -> Cost:
    return affine(shape.channels_out)


@register_blueprint("norm", fits=_norm_fits, count=_norm_cost)
def norm(shape: SiteShape) -> nn.Module:
    """Adds a normalised copy of the features, scaled and shifted: batch norm or layer norm."""
    return zero_init(
        batch_norm(shape, shape.channels_out) if shape.is_conv else nn.LayerNorm(shape.channels_out)
    )


class Zeros(nn.Module):
    """Zeros of the output's shape; without parameters."""

    def __init__(self, shape: SiteShape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        if self.shape.in_shape == self.shape.out_shape:
            return x.new_zeros(x.shape)
        return x.new_zeros(x.shape[0], *self.shape.out_shape)


def _zero_cost(shape: SiteShape) -> Cost:
    return Cost(0, 0)


def _always_fits(shape: SiteShape) -> str | None:
    return None


@register_blueprint("no_op", fits=_always_fits, count=_zero_cost)
def no_op(shape: SiteShape) -> nn.Module:
    """Adds zeros: what growth costs when nothing grows."""
    return Zeros(shape)


class Noise(nn.Module):
    """Adds noise of `scale` times the input's own size, the same at every position of a sample.

    Equal at every position, so that pooling does not average it out. A part of it passes through a seed's
    body, which never gets the input: its parameters have gradients but nothing to learn. Two draws pass
    through it, so that it has more FLOPs than a good seed of its size: only its impact shows the harm.
    """

    def __init__(self, body: nn.Module, shape: SiteShape, scale: float) -> None:
        super().__init__()
        self.body = body
        self.shape = shape
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        through = self.body(torch.randn_like(x)) + self.body(torch.randn_like(x))
        through = through / (through.square().mean().sqrt() + 1e-6)
        size = (len(x), self.shape.channels_out, *(1,) * len(self.shape.space_out))
        fresh = torch.randn(size, device=x.device, dtype=x.dtype)
        if not self.shape.is_conv:
            fresh = fresh.movedim(1, -1)
        return (fresh + _BODY_SHARE * through) * (self.scale * x.detach().square().mean().sqrt())


def _reset_parameters(body: nn.Module) -> nn.Module:
    for module in body.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            module.reset_parameters()
    return body


def _body_blueprint(shape: SiteShape) -> str:
    return "conv_heavy" if shape.is_conv else "mlp"


def _noise_fits(shape: SiteShape) -> str | None:
    if shape.is_conv:
        return needs_conv(shape)
    if shape.channels_in < NORM_FROM:
        return f"its layer norm needs at least {NORM_FROM} features, and {shape.in_shape} has fewer"
    return needs_features(shape)


def _noise_sizes(shape: SiteShape) -> list[dict[str, Option]]:
    offers = get_blueprint(_body_blueprint(shape)).sizes(shape)
    return [{"hidden": o["hidden"]} for o in offers if o.get("depth", 1) == 1]


def _noise_cost(shape: SiteShape, *, hidden: int = 16, scale: float = 1.0) -> Cost:
    once = get_blueprint(_body_blueprint(shape)).cost(shape, hidden=hidden)
    return Cost(once.params, 2 * once.flops)


@register_blueprint("noise", fits=_noise_fits, offers=_noise_sizes, count=_noise_cost)
def noise(shape: SiteShape, *, hidden: int = 16, scale: float = 1.0) -> nn.Module:
    """Harmful by construction, as large as conv_heavy or mlp: fresh noise at each forward, in eval too."""
    body = conv_heavy(shape, hidden=hidden) if shape.is_conv else mlp(shape, hidden=hidden)
    return Noise(_reset_parameters(body), shape, scale)

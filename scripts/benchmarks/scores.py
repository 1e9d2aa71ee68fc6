"""Scores of a moment: what the functional gradient at a site says of a seed that has not learnt yet.

A seed is born with an output layer at zero, in whose weights w its output J w is linear. g is the gradient of
the loss with respect to the site's output. The best answer to it, w* = argmin |J w + g|^2, is found by
conjugate gradients, so that no blueprint has to say what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from esper.kasmina import MorphableModel
from esper.kasmina.target_layers import first_tensor, layer_module, main_output
from esper.leyline import AdaptationCommand

_ITERATIONS = 10
# Lengths of w* that are tried, times the samples: g is that of a mean over them.
_LENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Singular values below this share of the largest one count for nothing.
_RANK_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Scores:
    """What is known of a candidate from one batch.

    `gradient_norm` is that of the loss in w at 0; `explained_share` how much of |g|^2 the seed's best answer
    takes away, in [0, 1]; `first_order_decrease` -<g, J w*>, the score of GroMo's TINY (Verbockhaven et al.,
    2024) for a whole seed; `line_search_decrease` what the loss really falls by along w*, at the best of a
    few lengths; `activation_rank` the share of the directions that the values the seed reads make use of.
    """

    gradient_norm: float
    explained_share: float
    first_order_decrease: float
    line_search_decrease: float
    activation_rank: float


def score(trial: MorphableModel, command: AdaptationCommand, loss: Callable[[], Tensor]) -> Scores:
    """Scores of the seed that `command` has added to `trial`; `loss` runs a batch through `trial`."""
    seed = trial.seed_module(trial.record(command.layer, command.seed_index))
    x, h, gradient, base = _watch(trial, command.layer, loss)
    source = h if command.placement == "series" else x
    silent = {n: p for n, p in seed.body.named_parameters() if p.requires_grad and not p.any()}
    if not silent:
        return Scores(0.0, 0.0, 0.0, 0.0, _rank(source))
    answer = _Answer(seed.body, silent, source)
    start = answer.pull(gradient)
    weights = answer.best(gradient)
    reply = answer.output(weights)
    decrease = -(gradient * reply).sum().item()
    left = (gradient + reply).square().sum() / gradient.square().sum().clamp(min=1e-30)
    return Scores(
        gradient_norm=_norm(start).item(),
        explained_share=min(1.0, max(0.0, 1.0 - left.item())),
        first_order_decrease=decrease,
        line_search_decrease=_line_search(silent, [len(source) * w for w in weights], loss, base),
        activation_rank=_rank(source),
    )


def _watch(
    trial: MorphableModel, layer: str, loss: Callable[[], Tensor]
) -> tuple[Tensor, Tensor, Tensor, float]:
    """The site's input, its output, the gradient there, and the loss."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        h = main_output(output)
        x = first_tensor(args, kwargs)
        if h is not None:
            seen.append((h if x is None else x, h))

    handle = layer_module(trial.host, layer).register_forward_hook(hook, with_kwargs=True)
    try:
        value = loss()
    finally:
        handle.remove()
    x, h = seen[-1]
    (gradient,) = torch.autograd.grad(value, [h])
    return x.detach(), h.detach(), gradient, value.item()


class _Answer:
    """The seed's output as a linear map of its silent weights, for one batch of inputs."""

    def __init__(self, body: nn.Module, silent: dict[str, nn.Parameter], source: Tensor) -> None:
        self.body = body
        self.names = list(silent)
        self.zeros = [torch.zeros_like(p) for p in silent.values()]
        self.source = source

    def output(self, weights: list[Tensor]) -> Tensor:
        given = dict(zip(self.names, weights, strict=True))
        with torch.no_grad():
            found: Tensor = functional_call(self.body, given, (self.source,))
        return found

    def pull(self, cotangent: Tensor) -> list[Tensor]:
        """J^T times a tensor of the output's shape."""
        leaves = [zero.clone().requires_grad_() for zero in self.zeros]
        out = functional_call(self.body, dict(zip(self.names, leaves, strict=True)), (self.source,))
        return list(torch.autograd.grad(out, leaves, cotangent))

    def best(self, gradient: Tensor) -> list[Tensor]:
        """w* by conjugate gradients on the normal equations (CGLS), from w = 0."""
        weights = [zero.clone() for zero in self.zeros]
        residual = [-r for r in self.pull(gradient)]
        direction, size = residual, _norm(residual) ** 2
        for _ in range(_ITERATIONS):
            moved = self.output(direction)
            length = size / moved.square().sum().clamp(min=1e-30)
            weights = [w + length * d for w, d in zip(weights, direction, strict=True)]
            residual = [r - length * a for r, a in zip(residual, self.pull(moved), strict=True)]
            fresh = _norm(residual) ** 2
            direction = [
                r + fresh / size.clamp(min=1e-30) * d for r, d in zip(residual, direction, strict=True)
            ]
            size = fresh
        return weights


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum().sqrt()


def _line_search(
    silent: dict[str, nn.Parameter], weights: list[Tensor], loss: Callable[[], Tensor], base: float
) -> float:
    """The largest decrease of the loss along the direction; 0 where every length makes it worse."""
    best = 0.0
    try:
        for length in _LENGTHS:
            with torch.no_grad():
                for parameter, weight in zip(silent.values(), weights, strict=True):
                    parameter.copy_(length * weight)
                best = max(best, base - loss().item())
    finally:
        with torch.no_grad():
            for parameter in silent.values():
                parameter.zero_()
    return best


def _rank(values: Tensor) -> float:
    """Numerical rank of the centred values, over the number of channels (or features)."""
    rows = (values.movedim(1, -1) if values.dim() > 2 else values).flatten(0, -2).float()
    sizes = torch.linalg.svdvals(rows - rows.mean(0))
    return (sizes > _RANK_SHARE * sizes.max()).sum().item() / max(1, len(sizes))

"""Norms, shares and weights of gradients by owner (the host, then every living seed), on the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esper.errors import AggregationError
from esper.leyline import JOINED, SeedStage
from esper.tolaria.gradients.gram import count_conflicts, gram_matrix

# The columns of the matrix of sums, which has a row for each owner.
SQUARES, SHARE, SAMPLES, CONFLICTS = range(4)
COLUMNS = 4


def squared_norms(gradients: Sequence[Sequence[Tensor | None]], device: torch.device) -> list[Tensor]:
    """For each owner the squared norms of its gradients, in float32 on `device`; 0 for None.

    Does not synchronise with the device.

    Returns:
        One tensor per owner, as long as its list of gradients.
    """
    known = [_dense(g) for row in gradients for g in row if g is not None]
    if not known:
        return [torch.zeros(len(row), device=device) for row in gradients]
    norms = iter(torch._foreach_norm(known))
    zero = torch.zeros((), device=device)
    flat = [zero if g is None else _to_device(next(norms), device) for row in gradients for g in row]
    return list(torch.stack(flat).square().split([len(row) for row in gradients]))


def _dense(gradient: Tensor) -> Tensor:
    """The gradient, or the values of a sparse one, which have its norm."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _to_device(norm: Tensor, device: torch.device) -> Tensor:
    return norm.to(device, torch.float32, non_blocking=True)


def accumulate(sums: Tensor, squares: Sequence[Tensor]) -> Tensor:
    """Add one sample to `sums` (owners, COLUMNS); returns 1 where it was sound, else 0, on the device.

    A share is an owner's part of the squared norm of the whole gradient, so that all shares add up to 1. A
    sample whose norm is zero or not finite (fp16 overflow) is ignored.

    Returns:
        Whether the sample is valid, a bool tensor on the device.

    Raises:
        AggregationError: the number of rows is not that of the owners.
    """
    if len(sums) != len(squares):
        raise AggregationError(f"{len(squares)} owners of gradients for {len(sums)} rows; expected one a row")
    by_owner = torch.stack([part.sum() for part in squares])
    total = by_owner.sum()
    valid = torch.isfinite(total) & (total > 0)
    by_owner = torch.where(valid, by_owner, 0.0)
    sums[:, SQUARES] += by_owner
    sums[:, SHARE] += by_owner / torch.where(valid, total, 1.0)
    sums[:, SAMPLES] += valid
    return valid


def added_gradient(now: Tensor, before: Tensor | None) -> Tensor:
    """The gradient of the last micro-batch, from the accumulated gradient after and before it; all flat."""
    return now if before is None else now - before


def flat_gradient(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """A copy of one owner's gradients as one vector in float32, with zeros for None.

    Raises:
        AggregationError: the numbers of gradients and parameters differ.
    """
    if len(gradients) != len(parameters):
        raise AggregationError(
            f"{len(gradients)} gradients for {len(parameters)} parameters; expected one for each"
        )
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).float().reshape(-1) for g, p in pairs])


def conflicts(rows: Sequence[Tensor]) -> Tensor:
    """The number of pairs of gradients over the same parameters with a negative inner product."""
    return count_conflicts(gram_matrix(torch.stack(list(rows))))


def layer_norms(names: Sequence[str], squares: Sequence[float], samples: float) -> dict[str, float]:
    """The root mean square norm of each layer's gradient over `samples` (zeros if there are none), by layer.

    Args:
        names: the dotted names of the parameters; the part before the last dot is the layer.
        squares: the summed squared norms of the parameters' gradients.
        samples: the number of samples.

    Raises:
        AggregationError: the lists differ in length.
    """
    if len(names) != len(squares):
        raise AggregationError(f"{len(squares)} norms for {len(names)} parameters; expected one for each")
    sums: dict[str, float] = {}
    for name, square in zip(names, squares, strict=True):
        layer = name.rpartition(".")[0] or name
        sums[layer] = sums.get(layer, 0.0) + square
    return {layer: math.sqrt(total / max(samples, 1.0)) for layer, total in sums.items()}


def largest(norms: Mapping[str, float], topk: int) -> dict[str, float]:
    """The `topk` layers with the largest norms, largest first; equal ones in the order of the seed."""
    if topk < 1:
        raise AggregationError(f"topk is {topk}; expected at least 1")
    return dict(sorted(norms.items(), key=lambda item: -item[1])[:topk])


def resolve_weights(stages: Sequence[SeedStage], alphas: Sequence[float]) -> list[float]:
    """The weight of each seed in [0, 1]: its alpha if it has joined the host, 0 in any other stage.

    That is the share of the seed's output that reaches the host; the host's weight is 1.

    Raises:
        AggregationError: the lists differ in length, or an alpha is outside of [0, 1].
    """
    if len(stages) != len(alphas):
        raise AggregationError(f"{len(alphas)} alphas for {len(stages)} seeds; expected one for each")
    if wrong := [alpha for alpha in alphas if not (math.isfinite(alpha) and 0.0 <= alpha <= 1.0)]:
        raise AggregationError(f"a seed's alpha is {wrong[0]!r}; expected a number from 0 to 1")
    return [alpha if stage in JOINED else 0.0 for stage, alpha in zip(stages, alphas, strict=True)]


def scale_steps(groups: Iterable[dict[str, Any]], weights: Mapping[str, float]) -> None:
    """Scale the next step of the parameter groups that `weights` names.

    The learning rate is scaled instead of the gradient, because Adam normalises the gradient.

    Raises:
        AggregationError: a weight is negative or not finite.
    """
    if wrong := {name: w for name, w in weights.items() if not 0.0 <= w < math.inf}:
        raise AggregationError(f"weights of seeds are {wrong}; expected finite numbers of at least 0")
    for group in groups:
        if group["name"] in weights:
            group["lr"] *= weights[group["name"]]

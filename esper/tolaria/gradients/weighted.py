"""Weighted means of gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper.errors import AggregationError
from esper.tolaria.gradients.aggregator import Aggregator, Combined
from esper.tolaria.gradients.tasks import Row, Tasks

Weight = float | Tensor


def normalized(weights: Sequence[Weight]) -> list[Weight]:
    """The weights divided by their sum; raises `AggregationError` if that is zero or not finite.

    Weights on a device are shares already and are returned unchanged: reading them would synchronise.
    """
    if any(isinstance(weight, Tensor) for weight in weights):
        return list(weights)
    total = math.fsum(weights) if all(map(math.isfinite, weights)) else math.nan
    if not math.isfinite(total) or total == 0:
        raise AggregationError(
            f"weights {list(weights)} add up to {total}; expected a finite sum except zero"
        )
    return [weight / total for weight in weights]


def weighted(gradients: Row, weights: Sequence[Weight]) -> Tensor | None:
    """The mean of gradients of one shape (any rank), by weights that need not add up to 1.

    None counts as zero; the mean of None only is None.

    Raises:
        AggregationError: as `normalized`; or the numbers of weights and gradients, or the shapes, differ.
    """
    if len(weights) != len(gradients):
        raise AggregationError(
            f"{len(weights)} weights for {len(gradients)} gradients; expected one for each"
        )
    shapes = {g.shape for g in gradients if g is not None}
    if len(shapes) > 1:
        raise AggregationError(f"gradients have shapes {sorted(map(tuple, shapes))}; expected one shape")
    mean: Tensor | None = None
    for weight, gradient in zip(normalized(weights), gradients, strict=True):
        if gradient is not None:
            factor = _on_device(weight, gradient)
            mean = gradient * factor if mean is None else torch.addcmul(mean, gradient, factor)
    return mean


def _on_device(weight: Weight, like: Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        return weight.to(like.device, like.dtype, non_blocking=True)
    # filled on the device: a copy from the CPU would synchronise
    return torch.full((), weight, dtype=like.dtype, device=like.device)


class Mean(Aggregator):
    """The mean with equal weights: of each micro-batch, whatever its size, or of each objective."""

    by_share = False

    def combine(self, tasks: Tasks) -> Combined:
        weights = normalized(self.weights(tasks))
        return Combined([weighted(column, weights) for column in tasks.columns], weights)

    def weights(self, tasks: Tasks) -> Sequence[Weight]:
        """A weight for each task, not normalised."""
        return [1.0] * len(tasks.rows)

    def combine_losses(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The mean of the objectives."""
        return super().combine_losses(losses) / len(losses)


class Weighted(Mean):
    """The weighted mean: micro-batches by their divisor (usually samples), objectives by `weights`.

    Args:
        weights: by objective; without it all are equal.

    Raises:
        AggregationError: the sum of weights is zero or not finite, or an objective has no weight.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        if weights is not None:
            normalized(list(weights.values()))
        self._given = weights

    def weights(self, tasks: Tasks) -> Sequence[Weight]:
        return self._named(tasks.names) if tasks.shares is None else tasks.shares

    def combine_losses(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted mean of the objectives."""
        weights = normalized(self._named(tuple(losses)))
        return super(Mean, self).combine_losses(
            {name: loss * weight for (name, loss), weight in zip(losses.items(), weights, strict=True)}
        )

    def _named(self, names: Sequence[str]) -> list[float]:
        if self._given is None:
            return [1.0] * len(names)
        missing = [name for name in names if name not in self._given]
        if missing:
            raise AggregationError(
                f"objective {missing[0]!r} has no weight; trainer.aggregation_params.weights has one for "
                f"{', '.join(self._given)}"
            )
        return [self._given[name] for name in names]

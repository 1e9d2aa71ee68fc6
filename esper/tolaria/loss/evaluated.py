"""The losses that an evaluation is made of: sample by sample where the loss gives them, else by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.tolaria.gradients.gram import widest_dtype
from esper.tolaria.loss.criterion import Criterion
from esper.tolaria.loss.divisors import BatchWeight
from esper.tolaria.loss.objectives import CombineLosses, Losses, total_loss
from esper.tolaria.loss.per_sample import SampleLosses

SAMPLES, BATCHES = "samples", "batches"
Row = tuple[Tensor, float | Tensor]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a loss: it is `sums.sum() / weights.sum()`; without `weights` all weigh 1."""

    sums: Tensor
    weights: Tensor | None = None
    over: str = SAMPLES


class KeptLosses:
    """Keeps the losses of one evaluation. Where one batch has none by sample, all are kept by batch."""

    def __init__(self, criterion: Criterion, combine_losses: CombineLosses) -> None:
        self.combine_losses = combine_losses
        self.by_sample = SampleLosses(criterion)
        self._batches: list[Row] = []
        self._samples: list[Row] | None = []

    def add(self, losses: Losses, output: Any, targets: Any, samples: int, weight: BatchWeight) -> None:
        """Note one batch; call it under the precision that the loss was computed with."""
        loss = total_loss(losses, self.combine_losses).detach().float()
        self._batches.append((weight.sum_of(loss).reshape(1), weight.units))
        if self._samples is None:
            return
        several = isinstance(losses, Mapping)
        row = None if several else self.by_sample.of(output, targets, samples, loss, weight)
        self._samples = None if row is None else [*self._samples, row]

    def read(self) -> Parts:
        """What has been kept."""
        if self._samples is None:
            return _joined(self._batches, BATCHES)
        return _joined(self._samples, SAMPLES)


def _joined(rows: Sequence[Row], over: str) -> Parts:
    if not rows:
        return Parts(torch.zeros(0), over=over)
    sums = torch.cat([values for values, _ in rows])
    weights = [weight for _, weight in rows]
    if not any(isinstance(weight, Tensor) for weight in weights) and len(set(weights)) == 1:
        return Parts(sums if weights[0] == 1 else sums / weights[0], over=over)
    return Parts(sums, torch.cat([_each(weight, values) for values, weight in rows]), over)


def _each(weight: float | Tensor, values: Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        return weight.to(values.device, widest_dtype(values.device)).reshape(-1)
    return torch.full_like(values, weight)

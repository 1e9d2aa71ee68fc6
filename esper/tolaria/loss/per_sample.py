"""The losses of an evaluation: sample by sample if the loss supports it, else batch by batch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.tolaria.gradients.gram import widest_dtype
from esper.tolaria.loss.criterion import Criterion
from esper.tolaria.loss.divisors import BatchWeight, torch_loss
from esper.tolaria.loss.objectives import CombineLosses, Losses, LossFunction, total_loss

# The relative tolerance for sums that are equal except for rounding; half precision has three digits.
_TOLERANCE = 2e-3


def unreduced(loss: LossFunction) -> Callable[[Any, Any], Any] | None:
    """The same loss with `reduction` "none"; None if it has no such setting."""
    if isinstance(loss, nn.Module):
        if getattr(loss, "reduction", None) not in ("mean", "sum", "batchmean"):
            return None
        single = copy.copy(loss)
        single.training = False  # for evaluation only
        setattr(single, "reduction", "none")  # noqa: B010 - Module types its attributes as tensors
        return single
    if torch_loss(loss) is None:
        return None
    function: Callable[..., Any] = loss
    return functools.partial(function, reduction="none")


class SampleLosses:
    """The losses of a batch's samples, as sums and divisors.

    They are used only after a check of their values, because many losses have a `reduction` and ignore it:
    there must be one row per sample, the sums must add up to the loss of the whole batch, and the first half
    of the samples alone must have the same losses.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.divisor = criterion.divisor
        self.single = None if criterion.batch_dependent else unreduced(criterion.loss)
        self._factor: float | None = None

    def of(
        self, output: Any, targets: Any, samples: int, loss: Tensor, weight: BatchWeight
    ) -> tuple[Tensor, float | Tensor] | None:
        """Sums (samples,) and divisors (one for all, or one each), or None if the loss does not support it.

        Synchronises with the device on the first batch.
        """
        parts = self.divisor.of_samples(targets, samples) if self.single is not None else None
        sums = None if parts is None else self._sums(output, targets, samples)
        if parts is None or sums is None:
            self.single = None
            return None
        if self._factor is None:
            self._factor = _find_factor(sums.sum(), weight.sum_of(loss), parts)
            if self._factor is None or not self._same_in_part(output, targets, samples, sums):
                self.single = None
                return None
        return sums * self._factor, parts

    def _sums(self, output: Any, targets: Any, samples: int) -> Tensor | None:
        assert self.single is not None
        try:
            values = self.single(output, targets)
        except Exception:  # noqa: BLE001 - a user's loss may raise anything
            return None
        if not isinstance(values, Tensor) or values.dim() == 0 or values.shape[0] != samples:
            return None
        return values.detach().float().reshape(samples, -1).sum(dim=1)

    def _same_in_part(self, output: Any, targets: Any, samples: int, sums: Tensor) -> bool:
        """Whether the first half of the samples has the same values without the others."""
        if not (isinstance(output, Tensor) and isinstance(targets, Tensor)):
            return False
        first = samples // 2
        if not first:
            return True
        alone = self._sums(output[:first], targets[:first], first)
        return alone is not None and _equal(alone, sums[:first])


def _find_factor(found: Tensor, expected: Tensor, parts: float | Tensor) -> float | None:
    """The factor with which the sums add up: some losses return a sample's values, some their mean."""
    factors = (1.0,) if isinstance(parts, Tensor) else (1.0, parts)
    return next((factor for factor in factors if _equal(found * factor, expected)), None)


def _equal(found: Tensor, expected: Tensor) -> bool:
    scale = expected.detach().abs().max().item()
    return torch.allclose(
        found.float(), expected.float(), rtol=_TOLERANCE, atol=_TOLERANCE * scale * 0.1, equal_nan=True
    )


SAMPLES, BATCHES = "samples", "batches"
Row = tuple[Tensor, float | Tensor]


@dataclass(frozen=True, slots=True)
class LossParts:
    """The parts of a mean loss `sums.sum() / weights.sum()`; without `weights` all weights are 1."""

    sums: Tensor
    weights: Tensor | None = None
    over: str = SAMPLES


class KeptLosses:
    """Collects the losses of one evaluation, by sample, or by batch if a batch has none by sample."""

    def __init__(self, criterion: Criterion, combine_losses: CombineLosses) -> None:
        self.combine_losses = combine_losses
        self.by_sample = SampleLosses(criterion)
        self._batches: list[Row] = []
        self._samples: list[Row] | None = []

    def add(self, losses: Losses, output: Any, targets: Any, samples: int, weight: BatchWeight) -> None:
        """Add one batch; call it with the autocast context that the loss was computed with."""
        loss = total_loss(losses, self.combine_losses).detach().float()
        self._batches.append((weight.sum_of(loss).reshape(1), weight.units))
        if self._samples is None:
            return
        several = isinstance(losses, Mapping)
        row = None if several else self.by_sample.of(output, targets, samples, loss, weight)
        self._samples = None if row is None else [*self._samples, row]

    def read(self) -> LossParts:
        """The collected losses."""
        if self._samples is None:
            return _joined(self._batches, BATCHES)
        return _joined(self._samples, SAMPLES)


def _joined(rows: Sequence[Row], over: str) -> LossParts:
    if not rows:
        return LossParts(torch.zeros(0), over=over)
    sums = torch.cat([values for values, _ in rows])
    weights = [weight for _, weight in rows]
    if not any(isinstance(weight, Tensor) for weight in weights) and len(set(weights)) == 1:
        return LossParts(sums if weights[0] == 1 else sums / weights[0], over=over)
    return LossParts(sums, torch.cat([_each(weight, values) for values, weight in rows]), over)


def _each(weight: float | Tensor, values: Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        return weight.to(values.device, widest_dtype(values.device)).reshape(-1)
    return torch.full_like(values, weight)

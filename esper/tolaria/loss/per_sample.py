"""A loss's values sample by sample, where it really gives them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from esper.tolaria.loss.criterion import Criterion
from esper.tolaria.loss.divisors import BatchWeight, torch_loss
from esper.tolaria.loss.objectives import LossFunction

# How far sums may be apart that are equal but for rounding; half precision has three digits.
_TOLERANCE = 2e-3


def unreduced(loss: LossFunction) -> Callable[[Any, Any], Any] | None:
    """The same loss with `reduction` "none"; None where it has no such setting."""
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

    They are believed only after a check by value: there is one row a sample, the sums add up to the loss of
    the whole batch, and the first samples alone have the same ones. Many losses have a `reduction` and do
    not obey it.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.divisor = criterion.divisor
        self.single = None if criterion.batch_dependent else unreduced(criterion.loss)
        self._factor: float | None = None

    def of(
        self, output: Any, targets: Any, samples: int, loss: Tensor, weight: BatchWeight
    ) -> tuple[Tensor, float | Tensor] | None:
        """Sums (samples,) and divisors (one for all, or one each), or None; waits for the device once."""
        parts = self.divisor.of_samples(targets, samples) if self.single is not None else None
        sums = None if parts is None else self._sums(output, targets, samples)
        if parts is None or sums is None:
            self.single = None
            return None
        if self._factor is None:
            self._factor = _fitting(sums.sum(), weight.sum_of(loss), parts)
            if self._factor is None or not self._alone(output, targets, samples, sums):
                self.single = None
                return None
        return sums * self._factor, parts

    def _sums(self, output: Any, targets: Any, samples: int) -> Tensor | None:
        assert self.single is not None
        try:
            values = self.single(output, targets)
        except Exception:  # noqa: BLE001 - a loss of the user's own may raise anything
            return None
        if not isinstance(values, Tensor) or values.dim() == 0 or values.shape[0] != samples:
            return None
        return values.detach().float().reshape(samples, -1).sum(dim=1)

    def _alone(self, output: Any, targets: Any, samples: int, sums: Tensor) -> bool:
        """Whether the first half of the samples has the same values without the others."""
        if not (isinstance(output, Tensor) and isinstance(targets, Tensor)):
            return False
        first = samples // 2
        if not first:
            return True
        alone = self._sums(output[:first], targets[:first], first)
        return alone is not None and _equal(alone, sums[:first])


def _fitting(found: Tensor, expected: Tensor, parts: float | Tensor) -> float | None:
    """What makes the sums add up: some losses give a sample's values, some the mean of them."""
    factors = (1.0,) if isinstance(parts, Tensor) else (1.0, parts)
    return next((factor for factor in factors if _equal(found * factor, expected)), None)


def _equal(found: Tensor, expected: Tensor) -> bool:
    scale = expected.detach().abs().max().item()
    return torch.allclose(
        found.float(), expected.float(), rtol=_TOLERANCE, atol=_TOLERANCE * scale * 0.1, equal_nan=True
    )

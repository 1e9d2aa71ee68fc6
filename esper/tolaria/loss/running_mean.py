"""A weighted mean that is accumulated batch by batch on a device, and its standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esper.tolaria.gradients.gram import widest_dtype
from esper.tolaria.loss.divisors import BatchWeight


class RunningMean:
    """A sum and its divisor.

    Batches whose divisor is a tensor are summed separately, in float64 if the device supports it, because
    their weights may be of any size.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.device = device
        self.total = torch.zeros((), device=device, dtype=dtype)
        self.units: float = 0
        self._weighted: Tensor | None = None

    def add(self, value: Tensor, weight: BatchWeight) -> None:
        """Add a batch's mean, or its sum if `weight.summed`, without synchronising with the device."""
        value = value.detach().to(self.device, non_blocking=True)
        if isinstance(weight.units, Tensor):
            wide = widest_dtype(self.device)
            units = weight.units.to(self.device, wide, non_blocking=True)
            both = torch.stack([BatchWeight(units, weight.summed).sum_of(value.to(wide)), units])
            self._weighted = both if self._weighted is None else self._weighted.add_(both)
            return
        self.total.add_(value, alpha=1 if weight.summed else weight.units)
        self.units += weight.units

    def read(self) -> float:
        """The mean; NaN if the divisor is 0. Synchronises with the device."""
        total, units = self.total.item(), self.units
        if self._weighted is not None:
            more, by = self._weighted.tolist()
            total, units = total + more, units + by
        return total / units if units else float("nan")

    def reset(self) -> None:
        """Set the sums to zero."""
        self.total.zero_()
        self.units = 0
        self._weighted = None

    def weighted(self) -> Tensor | None:
        """Sum and divisor of the batches whose divisor is a tensor; None if there were none."""
        return self._weighted

    def load(self, total: Tensor, units: float, weighted: Tensor | None) -> None:
        """Restore saved sums."""
        self.total.copy_(total)
        self.units = units
        self._weighted = None if weighted is None else weighted.to(self.device, copy=True)


def standard_error(values: Tensor, weights: Tensor | None) -> float:
    """The standard error of R = sum(v) / sum(w) over n independent pairs (v, w); infinite for fewer than two.

    By linearisation (Cochran, 1977, section 6): sqrt(n / (n - 1) * sum((v - R w)^2)) / sum(w). Without
    `weights` all are 1, and it is the standard deviation divided by sqrt(n). Pairs of weight 0 are ignored.
    The result does not change if values and weights are multiplied by one number.
    """
    if weights is None:
        n = values.numel()
        return values.std().item() / math.sqrt(n) if n > 1 else math.inf
    n = int((weights > 0).sum().item())
    if n < 2:
        return math.inf
    v, w = values.cpu().double(), weights.cpu().double()
    total = w.sum()
    residuals = v - v.sum() / total * w
    return ((n / (n - 1) * residuals.square().sum()).sqrt() / total).item()

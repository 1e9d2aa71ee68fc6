"""The divisor of the mean of a batch's losses: samples, elements, class weights, or none.

A loss times its divisor is a sum, and the sums of batches add up to that of all data for any batch size.
Divisors that depend on the labels' values are tensors on their device, to avoid a synchronisation; all others
are numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.tolaria.loss.objectives import LossFunction

IGNORED_LABEL = -100  # the default of every torch loss that can ignore labels


class BatchWeight(NamedTuple):
    """The weight of a batch's loss.

    Attributes:
        units: its divisor.
        summed: the loss is a sum already; it is reported per unit.
    """

    units: float | Tensor
    summed: bool = False

    def sum_of(self, loss: Tensor) -> Tensor:
        """The batch's sum; 0 if the divisor is 0, where the mean is NaN."""
        if not isinstance(self.units, Tensor):
            return loss if self.summed else loss * self.units
        units = self.units.to(loss.device, non_blocking=True)
        return torch.where(units > 0, loss if self.summed else loss * units, 0.0)


class Divisor(Protocol):
    """The rule for a loss's divisor, given a batch's targets."""

    def of_batch(self, targets: Any, samples: int) -> BatchWeight:
        """The divisor of a batch."""

    def of_samples(self, targets: Any, samples: int) -> float | Tensor | None:
        """Each sample's part of it: one number, or (samples,); None if unknown."""


@dataclass(frozen=True, slots=True)
class BySamples:
    """The mean over samples."""

    def of_batch(self, targets: Any, samples: int) -> BatchWeight:
        return BatchWeight(samples)

    def of_samples(self, targets: Any, samples: int) -> float | Tensor | None:
        return 1


@dataclass(frozen=True, slots=True)
class ByElements:
    """The mean over all values of all samples, as of `MSELoss`."""

    def of_batch(self, targets: Any, samples: int) -> BatchWeight:
        return BatchWeight(targets.numel() if isinstance(targets, Tensor) else samples)

    def of_samples(self, targets: Any, samples: int) -> float | Tensor | None:
        return targets.numel() / samples if isinstance(targets, Tensor) else 1


@dataclass(frozen=True, slots=True)
class Summed:
    """A sum instead of a mean (`reduction=sum`), reported per sample."""

    def of_batch(self, targets: Any, samples: int) -> BatchWeight:
        return BatchWeight(samples, summed=True)

    def of_samples(self, targets: Any, samples: int) -> float | Tensor | None:
        return 1


@dataclass(frozen=True, slots=True, eq=False)
class ByClass:
    """The mean over labels except `ignore_index` (None: over all), weighted by the classes' `weight`.

    Targets that are probabilities of classes have equal weights, as in torch.
    """

    weight: Tensor | None = None
    ignore_index: int | None = IGNORED_LABEL

    def of_batch(self, targets: Any, samples: int) -> BatchWeight:
        if not isinstance(targets, Tensor):
            return BatchWeight(samples)
        if targets.is_floating_point():
            return BatchWeight(targets.numel() // targets.shape[1] if targets.dim() > 1 else samples)
        if self.weight is None and self.ignore_index is None:
            return BatchWeight(targets.numel())
        return BatchWeight(self._weights(targets).sum())

    def of_samples(self, targets: Any, samples: int) -> float | Tensor | None:
        units = self.of_batch(targets, samples).units
        if isinstance(units, Tensor):
            return self._weights(targets).reshape(samples, -1).sum(dim=1)
        return units / samples

    def _weights(self, targets: Tensor) -> Tensor:
        if self.ignore_index is None:
            assert self.weight is not None
            return self.weight.to(targets.device)[targets]
        counted = targets != self.ignore_index
        if self.weight is None:
            return counted
        return self.weight.to(targets.device)[torch.where(counted, targets, 0)] * counted


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """The result of a loss's own method `divisor(targets)`: a number, or a tensor of one value."""

    method: Callable[[Any], int | float | Tensor]

    def of_batch(self, targets: Any, samples: int) -> BatchWeight:
        units = self.method(targets)
        if isinstance(units, Tensor):
            return BatchWeight(units.detach().sum())
        return BatchWeight(units)

    def of_samples(self, targets: Any, samples: int) -> float | Tensor | None:
        return None


_CLASSES = {"cross_entropy": nn.CrossEntropyLoss, "nll_loss": nn.NLLLoss}
_SAMPLES = {
    "multi_margin_loss": nn.MultiMarginLoss,
    "multilabel_margin_loss": nn.MultiLabelMarginLoss,
    "multilabel_soft_margin_loss": nn.MultiLabelSoftMarginLoss,
}
ELEMENTWISE = {
    "binary_cross_entropy": nn.BCELoss,
    "binary_cross_entropy_with_logits": nn.BCEWithLogitsLoss,
    "hinge_embedding_loss": nn.HingeEmbeddingLoss,
    "huber_loss": nn.HuberLoss,
    "kl_div": nn.KLDivLoss,
    "l1_loss": nn.L1Loss,
    "mse_loss": nn.MSELoss,
    "poisson_nll_loss": nn.PoissonNLLLoss,
    "smooth_l1_loss": nn.SmoothL1Loss,
    "soft_margin_loss": nn.SoftMarginLoss,
}
_NAMES: Mapping[Any, str] = {
    key: name
    for name, kind in {**_CLASSES, **_SAMPLES, **ELEMENTWISE}.items()
    for key in (kind, getattr(F, name))
}


def torch_loss(loss: LossFunction) -> str | None:
    """The name in `torch.nn.functional` of one of torch's losses; None for any other, also for subclasses."""
    function = loss.func if isinstance(loss, functools.partial) else loss
    kind = type(loss) if isinstance(loss, nn.Module) else function
    return _NAMES.get(kind) if isinstance(kind, type | FunctionType) else None


def setting(loss: LossFunction, name: str, default: Any = None) -> Any:
    """An argument of a loss: an attribute, or a keyword of a `functools.partial`."""
    if isinstance(loss, functools.partial):
        return loss.keywords.get(name, default)
    return getattr(loss, name, default)


def class_divisor(loss: LossFunction, *, ignorable: bool = True) -> ByClass:
    """The rule of cross-entropy with a loss's class weights and ignored label.

    Without `ignorable` the data cannot contain the ignored label.
    """
    weight = setting(loss, "weight")
    ignored = setting(loss, "ignore_index", IGNORED_LABEL)
    return ByClass(weight if isinstance(weight, Tensor) else None, ignored if ignorable else None)


def known_divisor(loss: LossFunction, *, ignorable: bool = True) -> Divisor | None:
    """The rule of a loss that declares it or is one of torch's; None if it must be determined."""
    declared = getattr(loss, "divisor", None)
    if callable(declared):
        return Declared(declared)
    name, reduction = torch_loss(loss), setting(loss, "reduction", "mean")
    if name is None:
        return None
    if reduction == "sum":
        return Summed()
    if name in _CLASSES:
        return class_divisor(loss, ignorable=ignorable)
    return BySamples() if name in _SAMPLES or reduction == "batchmean" else ByElements()


def shares(weights: Sequence[BatchWeight]) -> list[float | Tensor]:
    """The factors with which the losses of a step's micro-batches add up to that of one big batch."""
    if len(weights) == 1:
        return [1]
    if weights[0].summed:
        return [1.0] * len(weights)
    units = [weight.units for weight in weights]
    total: float | Tensor = sum(units)
    if isinstance(total, Tensor):
        return [torch.where(total > 0, unit / total, 0.0) for unit in units]
    return [unit / total if total else 0.0 for unit in units]

"""Determines by experiment what a loss's mean is divided by: parts of a batch must add up to the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from esper.tolaria.loss.divisors import (
    IGNORED_LABEL,
    BatchWeight,
    ByClass,
    ByElements,
    BySamples,
    Divisor,
    Summed,
    class_divisor,
    setting,
)
from esper.tolaria.loss.objectives import Losses, LossFunction, compute_loss
from esper.tolaria.probe_batch import ProbeBatch
from esper.tolaria.task import batch_length

# The relative tolerance for values that are equal except for rounding; half precision has three digits.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2

# The number of batches that are joined if each has a single sample, which cannot be split.
_MAX_JOINED = 12

Piece = tuple[Losses, Any, int]  # losses, targets and samples of a part of the batch


@dataclass(frozen=True, slots=True)
class _Trial:
    """A batch, an output of the model or one with noise, and the loss of all its samples."""

    batch: Any
    output: Any
    targets: Any
    losses: Losses
    samples: int


def find_divisor(
    loss: LossFunction,
    declared: Divisor | None,
    probe: ProbeBatch,
    evaluated: tuple[Any, Any, Losses],
    ignorable: bool,
) -> tuple[Divisor, list[str]]:
    """The first rule for which the parts of the probe batch add up to the whole; else by samples, and a note.

    Outputs with noise are tried besides the model's own, because before training the outputs may be equal for
    all samples, and then every rule fits.

    Args:
        loss: the loss function.
        declared: the loss's own rule, from its method `divisor`.
        probe: the probe batch.
        evaluated: output, targets and losses of the probe batch.
        ignorable: whether the data may contain the label that the loss ignores.
    """
    candidates = [declared] if declared is not None else list(_candidates(loss, evaluated[1], ignorable))
    trials = list(_trials(loss, probe, evaluated))
    cuts = [(trial, pieces) for trial in trials for pieces in _splits(loss, probe, trial)]
    for divisor in candidates if cuts else ():
        if all(pieces is not None and _fits(divisor, trial, pieces) for trial, pieces in cuts):
            return divisor, []
    return (declared or BySamples()), [_note(declared is not None)]


def _trials(loss: LossFunction, probe: ProbeBatch, evaluated: tuple[Any, Any, Losses]) -> Iterator[_Trial]:
    own = _Trial(probe.batch, *evaluated, probe.samples)
    if own.samples == 1:
        own = _join_single_samples(loss, probe) or own
    yield own
    output = own.output
    if isinstance(output, Tensor) and output.is_floating_point() and _has_samples(output, own.samples):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(output.shape, generator=generator).to(output)
        try:
            yield replace(own, output=output + noise, losses=compute_loss(loss, output + noise, own.targets))
        except Exception:  # noqa: BLE001 - the loss may accept probabilities only
            return


def _join_single_samples(loss: LossFunction, probe: ProbeBatch) -> _Trial | None:
    """Several batches of one sample as one; None if there is only one, or they cannot be joined."""
    batches = list(islice(probe.batches.batches(0), _MAX_JOINED))
    try:
        batch = join(batches)
        output, targets = probe.forward(batch)
        losses = compute_loss(loss, output, targets)
        return _Trial(batch, output, targets, losses, len(batches)) if len(batches) > 1 else None
    except Exception:  # noqa: BLE001 - for example batches of different shapes
        return None


def join(batches: Sequence[Any]) -> Any:
    """Concatenate batches; raises `TypeError` unless they are tensors, or mappings or sequences of them."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {key: join([batch[key] for batch in batches]) for key in first}
    if isinstance(first, list | tuple):
        items = [join(parts) for parts in zip(*batches, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    raise TypeError(f"batches of {type(first).__name__} cannot be joined")


def _candidates(loss: LossFunction, targets: Any, ignorable: bool) -> Iterator[Divisor]:
    labels = isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
    if labels and isinstance(setting(loss, "weight"), Tensor):
        yield class_divisor(loss, ignorable=ignorable)
    if labels and ignorable:
        yield ByClass(None, setting(loss, "ignore_index", IGNORED_LABEL))
    if isinstance(targets, Tensor) and targets.is_floating_point():
        yield ByElements()
    yield BySamples()
    yield Summed()


def _fits(divisor: Divisor, whole: _Trial, pieces: Sequence[Piece]) -> bool:
    try:
        weights = [divisor.of_batch(targets, samples) for _, targets, samples in pieces]
        total = divisor.of_batch(whole.targets, whole.samples)
    except Exception:  # noqa: BLE001 - the rule may not apply to these targets
        return False
    return all(
        _same(expected, [_named(piece[0])[name] for piece in pieces], weights, total)
        for name, expected in _named(whole.losses).items()
    )


def _named(losses: Losses) -> Mapping[str, Tensor]:
    return losses if isinstance(losses, Mapping) else {"": losses}


def _same(
    expected: Tensor, found: Sequence[Tensor], weights: Sequence[BatchWeight], total: BatchWeight
) -> bool:
    if not torch.isfinite(expected):
        return True
    tolerance = _TOLERANCE if expected.dtype.itemsize > 2 else _HALF_TOLERANCE
    sums = sum(weight.sum_of(loss).double() for loss, weight in zip(found, weights, strict=True))
    return torch.allclose(
        torch.as_tensor(sums), total.sum_of(expected).double(), rtol=tolerance, atol=tolerance**2
    )


def _note(declared: bool) -> str:
    text = (
        "optimization.loss_function: the loss of a batch is not the mean of its samples' losses: reported "
        "losses depend on dataset.batch_size, and the error of a seed's impact is over batches"
    )
    if declared:
        return f"{text}; what its method divisor(targets) returns does not fit"
    return f"{text}; a method divisor(targets) of the loss can say what its mean is divided by"


def _splits(loss: LossFunction, probe: ProbeBatch, trial: _Trial) -> Iterator[list[Piece] | None]:
    """The batch split in two parts, at two positions; None for a split for which the loss fails."""
    n = trial.samples
    for at in sorted({n // 2, n // 3} - {0}):
        try:
            yield [_piece(loss, probe, trial, *ends) for ends in ((0, at), (at, n))]
        except Exception:  # noqa: BLE001 - the loss may accept one batch size only
            yield None


def _piece(loss: LossFunction, probe: ProbeBatch, trial: _Trial, start: int, end: int) -> Piece:
    batch = cut(trial.batch, start, end, trial.samples)
    targets = probe.batch_adapter(batch)[2]
    if _has_samples(trial.output, trial.samples):
        part = cut(trial.output, start, end, trial.samples)
    else:
        part, targets = probe.forward(batch)
    losses = compute_loss(loss, part, targets)
    if isinstance(losses, Tensor) and losses.dim():
        raise ValueError("not one number")
    return losses, targets, batch_length(targets)


def cut(value: Any, start: int, end: int, samples: int) -> Any:
    """Samples `start` to `end` of a batch or an output; parts without a sample dimension are unchanged."""
    if isinstance(value, Tensor):
        return value[start:end] if value.dim() and value.shape[0] == samples else value
    if isinstance(value, Mapping):
        return {key: cut(item, start, end, samples) for key, item in value.items()}
    return _cut_items(value, start, end, samples) if isinstance(value, list | tuple) else value


def _cut_items(value: Any, start: int, end: int, samples: int) -> Any:
    if isinstance(value, list) and len(value) == samples and not any(isinstance(v, Tensor) for v in value):
        return value[start:end]
    items = [cut(item, start, end, samples) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _has_samples(output: Any, samples: int) -> bool:
    if isinstance(output, Tensor):
        return bool(output.dim()) and output.shape[0] == samples
    if isinstance(output, Mapping):
        return bool(output) and all(_has_samples(item, samples) for item in output.values())
    return isinstance(output, list | tuple) and bool(output) and all(_has_samples(o, samples) for o in output)

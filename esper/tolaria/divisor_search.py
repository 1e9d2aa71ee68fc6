"""Finds out by trying what the mean of a loss is divided by: which rule lets parts make up the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esper.tolaria.divisors import (
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
from esper.tolaria.losses import Losses, LossFunction, judge
from esper.tolaria.probe import Probe
from esper.tolaria.task import batch_length

# How far two values of a loss may be apart that differ by rounding alone; half precision has three digits.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2

Piece = tuple[Losses, Any, int]  # losses, targets and samples of a part of the batch


def find_divisor(
    loss: LossFunction,
    declared: Divisor | None,
    probe: Probe,
    judged: tuple[Any, Any, Losses],
    ignorable: bool,
) -> tuple[Divisor, list[str]]:
    """The first rule by which the parts of the probe batch make up the whole; else by samples, and a note.

    `judged` are output, targets and losses of the probe batch, `declared` is the loss's own rule; a label may
    be an ignored one where `ignorable`. A batch of one sample has no parts, and the first rule is taken.
    """
    output, targets, losses = judged
    candidates = [declared] if declared is not None else list(_candidates(loss, targets, ignorable))
    splits = list(_splits(loss, probe, output))
    if not splits:
        return candidates[0], []
    whole = losses, targets, probe.samples
    for divisor in candidates:
        if all(pieces is not None and _fits(divisor, whole, pieces) for pieces in splits):
            return divisor, []
    return (declared or BySamples()), [_note(declared is not None)]


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


def _fits(divisor: Divisor, whole: Piece, pieces: Sequence[Piece]) -> bool:
    try:
        weights = [divisor.of_batch(targets, samples) for _, targets, samples in pieces]
        total = divisor.of_batch(whole[1], whole[2])
    except Exception:  # noqa: BLE001 - the rule is tried on targets that it may not be for
        return False
    return all(
        _same(expected, [value[name] for value in map(_named, pieces)], weights, total)
        for name, expected in _named(whole).items()
    )


def _named(piece: Piece) -> Mapping[str, Tensor]:
    return piece[0] if isinstance(piece[0], Mapping) else {"": piece[0]}


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


def _splits(loss: LossFunction, probe: Probe, output: Any) -> Iterator[list[Piece] | None]:
    """The batch cut in two at two places; None for a cut where the loss fails."""
    n = probe.samples
    for at in sorted({n // 2, n // 3} - {0}):
        try:
            yield [_piece(loss, probe, output, *ends) for ends in ((0, at), (at, n))]
        except Exception:  # noqa: BLE001 - it was made for batches of one size, perhaps
            yield None


def _piece(loss: LossFunction, probe: Probe, output: Any, start: int, end: int) -> Piece:
    batch = cut(probe.batch, start, end, probe.samples)
    targets = probe.form(batch)[2]
    if _has_samples(output, probe.samples):
        part = cut(output, start, end, probe.samples)
    else:
        part, targets = probe.answer(batch)
    losses = judge(loss, part, targets)
    if isinstance(losses, Tensor) and losses.dim():
        raise ValueError("not one number")
    return losses, targets, batch_length(targets)


def cut(value: Any, start: int, end: int, samples: int) -> Any:
    """Samples `start` to `end` of a batch or an output, whatever its form; what has no samples stays."""
    if isinstance(value, Tensor):
        return value[start:end] if value.dim() and value.shape[0] == samples else value
    if isinstance(value, Mapping):
        return {key: cut(item, start, end, samples) for key, item in value.items()}
    return _cut_items(value, start, end, samples) if isinstance(value, list | tuple) else value


def _cut_items(value: Any, start: int, end: int, samples: int) -> Any:
    if len(value) == samples and not any(isinstance(item, Tensor) for item in value):
        return value[start:end]
    items = [cut(item, start, end, samples) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _has_samples(output: Any, samples: int) -> bool:
    if isinstance(output, Tensor):
        return bool(output.dim()) and output.shape[0] == samples
    if isinstance(output, Mapping):
        return bool(output) and all(_has_samples(item, samples) for item in output.values())
    return isinstance(output, list | tuple) and bool(output) and all(_has_samples(o, samples) for o in output)

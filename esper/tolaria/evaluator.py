"""Evaluation on held-out data, and what a single seed is worth there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina import MorphableModel, Seed
from esper.leyline import Impact
from esper.tolaria.loss.criterion import as_criterion
from esper.tolaria.loss.evaluated import SAMPLES, KeptLosses, Parts
from esper.tolaria.loss.loss_state import evaluating
from esper.tolaria.loss.objectives import LossFunction, Total, compute_loss, sum_losses
from esper.tolaria.loss.standard_error import standard_error
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import BatchForm, RunningMetrics, batch_length, targets_to
from esper.utils.device_and_rng import seeded_rng


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean loss and accuracy (None where the task has none).

    `losses` and `weights` say what the loss was made of: it is `losses.sum() / weights.sum()`, with a value
    for each sample, or for each batch where `error_over` is "batches". Without `weights` all weigh the same
    and `losses` are means. `objectives` has the mean of each where the loss has several.
    """

    loss: float
    accuracy: float | None
    samples: int
    losses: Tensor = field(repr=False, default_factory=lambda: torch.zeros(0))
    objectives: Mapping[str, float] = field(default_factory=dict)
    weights: Tensor | None = field(repr=False, default=None)
    error_over: str = SAMPLES


class Evaluator:
    """Evaluates a model in eval mode, without gradients, eagerly, leaving all generators as they were.

    A loss that is a module is in eval mode, too.
    What a model draws in eval mode depends on `rng_seed` alone, so that two evaluations can be paired.
    `attend` is called before every batch; where it raises, the model is left as it was found.
    """

    def __init__(
        self,
        model: MorphableModel,
        loss: LossFunction,
        form: BatchForm,
        precision: Precision,
        device: torch.device,
        rng_seed: int = 0,
        total: Total = sum_losses,
        attend: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.loss = as_criterion(loss)
        self.form = form
        self.precision = precision
        self.device = device
        self.rng_seed = rng_seed
        self.total = total
        self.attend = attend

    def of(self, model: MorphableModel, loss: LossFunction | None = None) -> Evaluator:
        """The same way of evaluating another model, by another loss where one is given."""
        return Evaluator(
            model,
            loss or self.loss,
            self.form,
            self.precision,
            self.device,
            self.rng_seed,
            self.total,
            self.attend,
        )

    def run(self, batches: Iterable[Any], *, keep_losses: bool = False) -> Evaluation:
        """Evaluate over `batches`; with `keep_losses` also the loss of every sample, or of every batch."""
        was_training = self.model.training
        self.model.eval()
        meter = RunningMetrics(self.device, self.total, self.loss.accuracy)
        kept = KeptLosses(self.loss, self.total) if keep_losses else None
        if self.loss.metric is not None:
            self.loss.metric.reset()
        try:
            with torch.no_grad(), seeded_rng(self.rng_seed, self.device), evaluating(self.loss):
                for batch in batches:
                    self.attend()
                    self._batch(batch, meter, kept)
        finally:
            self.model.train(was_training)
        loss, accuracy = meter.read()
        if self.loss.metric is not None and meter.samples:
            accuracy = float(self.loss.metric.compute())
        parts = Parts(torch.zeros(0)) if kept is None else kept.read()
        return Evaluation(
            loss, accuracy, meter.samples, parts.sums, meter.objectives(), parts.weights, parts.over
        )

    def _batch(self, batch: Any, meter: RunningMetrics, kept: KeptLosses | None) -> None:
        args, kwargs, targets = self.form(batch)
        with self.precision.autocast():
            self.model.count_forward()
            output = self.model.forward(*args, **kwargs)
            targets = targets_to(targets, output)
            found = compute_loss(self.loss, output, targets)
            samples = batch_length(targets)
            weight = self.loss.divisor.of_batch(targets, samples)
            if kept is not None:
                kept.add(found, output, targets, samples, weight)
        meter.add(found, output, targets, samples, weight)
        if self.loss.metric is not None:
            self.loss.metric.update(output, targets)

    def impact(self, seed: Seed, batches: Callable[[], Iterable[Any]]) -> Impact:
        """What `seed` is worth on held-out `batches`: with it on, against its alpha at 0; see `impacts`."""
        return self.impacts([seed], batches)[0]

    def impacts(self, seeds: Sequence[Seed], batches: Callable[[], Iterable[Any]]) -> list[Impact]:
        """What each seed is worth with all others as they are; one pass with all on serves them all.

        Batch norms judge each batch by its own statistics meanwhile: the running ones lag behind a
        network that has just changed, and know nothing of it with the seed off. One sample has no
        statistics: a last batch of that size is left out there, and with batches of one the running ones do.
        """
        with batch_statistics(self.model) if self._size(next(iter(batches()))) > 1 else nullcontext():
            with_it = self.run(self._judged(batches()), keep_losses=True)
            sign = 1 if self.loss.higher_is_better else -1
            return [_compare(with_it, self._without(seed, batches), sign) for seed in seeds]

    def _without(self, seed: Seed, batches: Callable[[], Iterable[Any]]) -> Evaluation:
        alpha = seed.alpha.clone()
        seed.alpha.zero_()
        try:
            return self.run(self._judged(batches()), keep_losses=True)
        finally:
            seed.alpha.copy_(alpha)

    def _size(self, batch: Any) -> int:
        return batch_length(self.form(batch)[2])

    def _judged(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of more than one sample; all where the first has one, or where there are no norms."""
        first = 0 if any(_batch_norms(self.model)) else 1
        for batch in batches:
            first = first or self._size(batch)
            if self._size(batch) > 1 or first == 1:
                yield batch


def _compare(with_it: Evaluation, without: Evaluation, sign: int) -> Impact:
    paired = with_it.losses.shape == without.losses.shape
    gain = without.losses - with_it.losses if paired else torch.zeros(0)
    accuracy = None
    if with_it.accuracy is not None and without.accuracy is not None:
        accuracy = sign * (with_it.accuracy - without.accuracy)
    return Impact(
        loss_gain=without.loss - with_it.loss,
        loss_gain_error=standard_error(gain, with_it.weights),
        accuracy_gain=accuracy,
        samples=with_it.samples,
        error_over=with_it.error_over,
        error_values=gain.numel(),
    )


def _batch_norms(model: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    return (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block batch norms normalise by the batch, also in eval mode; their buffers stay."""
    norms = list(_batch_norms(model))
    kept = [m.track_running_stats for m in norms]
    buffers = [(m.running_mean, m.running_var, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, tracked, (mean, var, count) in zip(norms, kept, buffers, strict=True):
            norm.track_running_stats = tracked
            norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, var, count

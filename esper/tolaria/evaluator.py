"""Evaluation on held-out data, and the impact of single seeds there."""

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
from esper.tolaria.loss.loss_state import evaluating
from esper.tolaria.loss.objectives import CombineLosses, LossFunction, compute_loss, sum_losses
from esper.tolaria.loss.per_sample import SAMPLES, KeptLosses, LossParts
from esper.tolaria.loss.running_mean import standard_error
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import BatchAdapter, RunningMetrics, batch_length, targets_to
from esper.utils.device_and_rng import seeded_rng


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of one evaluation.

    Attributes:
        loss: mean loss, `losses.sum() / weights.sum()` if there are weights.
        accuracy: share of right answers or the metric's value; None if the task has none.
        samples: number of samples.
        losses: values per sample, or per batch if `error_over` is "batches"; means if `weights` is None.
        objectives: mean of each objective, if the loss has several.
        weights: divisor of each value in `losses`; None if all weigh the same.
        error_over: what `losses` has a value for, "samples" or "batches".
    """

    loss: float
    accuracy: float | None
    samples: int
    losses: Tensor = field(repr=False, default_factory=lambda: torch.zeros(0))
    objectives: Mapping[str, float] = field(default_factory=dict)
    weights: Tensor | None = field(repr=False, default=None)
    error_over: str = SAMPLES


class Evaluator:
    """Evaluates a model in eval mode, without gradients and uncompiled; all generators are restored.

    A loss that is a module is in eval mode, too. What a model draws in eval mode depends only on `rng_seed`,
    so two evaluations can be paired.

    Args:
        model: the model.
        loss: the loss function or a `Criterion`.
        batch_adapter: splits a batch into model arguments and targets.
        precision: autocast.
        device: where metrics are accumulated.
        rng_seed: seed of the generators during evaluation.
        combine_losses: makes one loss of several objectives.
        poll: called before every batch; if it raises, the model's mode is restored.
    """

    def __init__(
        self,
        model: MorphableModel,
        loss: LossFunction,
        batch_adapter: BatchAdapter,
        precision: Precision,
        device: torch.device,
        rng_seed: int = 0,
        combine_losses: CombineLosses = sum_losses,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.loss = as_criterion(loss)
        self.batch_adapter = batch_adapter
        self.precision = precision
        self.device = device
        self.rng_seed = rng_seed
        self.combine_losses = combine_losses
        self.poll = poll

    def of(self, model: MorphableModel, loss: LossFunction | None = None) -> Evaluator:
        """An evaluator with the same settings for another model, and another loss if one is given."""
        return Evaluator(
            model,
            loss or self.loss,
            self.batch_adapter,
            self.precision,
            self.device,
            self.rng_seed,
            self.combine_losses,
            self.poll,
        )

    def run(self, batches: Iterable[Any], *, keep_losses: bool = False) -> Evaluation:
        """Evaluate the model on `batches`.

        Args:
            batches: the batches.
            keep_losses: also return the loss of every sample, or of every batch.
        """
        was_training = self.model.training
        self.model.eval()
        meter = RunningMetrics(self.device, self.combine_losses, self.loss.accuracy)
        kept = KeptLosses(self.loss, self.combine_losses) if keep_losses else None
        if self.loss.metric is not None:
            self.loss.metric.reset()
        try:
            with torch.no_grad(), seeded_rng(self.rng_seed, self.device), evaluating(self.loss):
                for batch in batches:
                    self.poll()
                    self._batch(batch, meter, kept)
        finally:
            self.model.train(was_training)
        loss, accuracy = meter.read()
        if self.loss.metric is not None and meter.samples:
            accuracy = float(self.loss.metric.compute())
        parts = LossParts(torch.zeros(0)) if kept is None else kept.read()
        return Evaluation(
            loss, accuracy, meter.samples, parts.sums, meter.objectives(), parts.weights, parts.over
        )

    def _batch(self, batch: Any, meter: RunningMetrics, kept: KeptLosses | None) -> None:
        args, kwargs, targets = self.batch_adapter(batch)
        with self.precision.autocast():
            self.model.count_forward()
            output = self.model.forward(*args, **kwargs)
            targets = targets_to(targets, output)
            losses = compute_loss(self.loss, output, targets)
            samples = batch_length(targets)
            weight = self.loss.divisor.of_batch(targets, samples)
            if kept is not None:
                kept.add(losses, output, targets, samples, weight)
        meter.add(losses, output, targets, samples, weight)
        if self.loss.metric is not None:
            self.loss.metric.update(output, targets)

    def impact(self, seed: Seed, batches: Callable[[], Iterable[Any]]) -> Impact:
        """The impact of `seed` on held-out `batches`: active, against its alpha at 0. See `impacts`."""
        return self.impacts([seed], batches)[0]

    def impacts(self, seeds: Sequence[Seed], batches: Callable[[], Iterable[Any]]) -> list[Impact]:
        """The impact of each seed, all others unchanged; one pass with all active serves all comparisons.

        Batch norms use the statistics of each batch meanwhile: the running ones lag behind a network that
        has just changed, and were not collected with the seed off. A last batch of one sample, which has no
        statistics, is left out if there are batch norms. If all have one, running statistics are used.

        Args:
            seeds: the seeds to measure.
            batches: returns a fresh pass over the held-out batches.
        """
        with batch_statistics(self.model) if self._size(next(iter(batches()))) > 1 else nullcontext():
            active = self.run(self._usable(batches()), keep_losses=True)
            sign = 1 if self.loss.higher_is_better else -1
            return [_compare(active, self._without(seed, batches), sign) for seed in seeds]

    def _without(self, seed: Seed, batches: Callable[[], Iterable[Any]]) -> Evaluation:
        alpha = seed.alpha.clone()
        seed.alpha.zero_()
        try:
            return self.run(self._usable(batches()), keep_losses=True)
        finally:
            seed.alpha.copy_(alpha)

    def _size(self, batch: Any) -> int:
        return batch_length(self.batch_adapter(batch)[2])

    def _usable(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of more than one sample; all if the first has one, or without batch norms."""
        first = 0 if any(_batch_norms(self.model)) else 1
        for batch in batches:
            first = first or self._size(batch)
            if self._size(batch) > 1 or first == 1:
                yield batch


def _compare(active: Evaluation, inactive: Evaluation, sign: int) -> Impact:
    paired = active.losses.shape == inactive.losses.shape
    gain = inactive.losses - active.losses if paired else torch.zeros(0)
    accuracy = None
    if active.accuracy is not None and inactive.accuracy is not None:
        accuracy = sign * (active.accuracy - inactive.accuracy)
    return Impact(
        loss_gain=inactive.loss - active.loss,
        loss_gain_error=standard_error(gain, active.weights),
        accuracy_gain=accuracy,
        samples=active.samples,
        error_over=active.error_over,
        error_values=gain.numel(),
    )


def _batch_norms(model: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    return (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms normalize by the batch within the block, also in eval mode; their buffers are restored."""
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

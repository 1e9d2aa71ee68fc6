"""One optimiser step: forward, backward, clip, step, blend; nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from esper.kasmina import SeedManager
from esper.tolaria.compiled_forward import TrainingForward, tensors
from esper.tolaria.gradients import Backward, PlainBackward
from esper.tolaria.gradients.seed_attribution import SeedAttribution
from esper.tolaria.loss.criterion import as_criterion
from esper.tolaria.loss.divisors import BatchWeight, shares
from esper.tolaria.loss.objectives import LossFunction, compute_loss
from esper.tolaria.optimization.clipping import clip, gradient_norm
from esper.tolaria.optimization.lr_schedule import LearningRate
from esper.tolaria.optimization.optimizer_manager import OptimizerManager
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import BatchForm, BatchMetric, batch_length, targets_to

# A seed's gradient norm is sampled for its health every so many steps: the norm costs a kernel a tensor.
GRADIENT_SAMPLE_STEPS = 16


class Stepper:
    """Turns a window of micro-batches into one step of host, joined seeds and isolated seeds."""

    def __init__(
        self,
        forward: TrainingForward,
        optimizers: OptimizerManager,
        seeds: SeedManager,
        schedule: LearningRate,
        loss: LossFunction,
        form: BatchForm,
        precision: Precision,
        clip_norm: float | None,
        backward: Backward | None = None,
        attribution: SeedAttribution | None = None,
        clip_scope: str = "all",
    ) -> None:
        self.forward = forward
        self.optimizers = optimizers
        self.seeds = seeds
        self.schedule = schedule
        self.loss = as_criterion(loss)
        self.form = form
        self.precision = precision
        self.clip_norm = clip_norm
        self.backward = backward or PlainBackward(precision)
        self.attribution = attribution
        self.clip_scope = clip_scope

    def step(
        self, window: Sequence[Any], meters: Sequence[BatchMetric], at: int, *, want_norm: bool = False
    ) -> Tensor | None:
        """Do step number `at` (steps done so far) and return the gradient norm where it was wanted or taken.

        Losses of the window's batches weigh by their share of what its mean is divided by (samples, labels
        that count, class weights), so that their gradients add up to that of one big batch, also for a
        window that is short. Every meter counts every batch. What the gradients of several micro-batches or
        objectives come to is up to `backward`.
        """
        parts = [self.form(batch) for batch in window]
        sizes = [batch_length(targets) for _, _, targets in parts]
        divisor = self.loss.divisor
        weights = [divisor.of_batch(part[2], size) for part, size in zip(parts, sizes, strict=True)]
        self.backward.begin(len(parts))
        for (args, kwargs, targets), size, weight, share in zip(
            parts, sizes, weights, shares(weights), strict=True
        ):
            with self.precision.autocast():
                output = self.forward(size, args, kwargs)
                targets = targets_to(targets, output)
                losses = compute_loss(self.loss, output, targets)
            if self.loss.gradient_may_break:
                _guard_gradient(output, weight)
            for meter in meters:
                meter.add(losses, output, targets, size, weight)
            self.backward.add(losses, share)
        self.backward.finish()
        return self._finish(at, want_norm)

    def _finish(self, at: int, want_norm: bool) -> Tensor | None:
        main = self.optimizers.main
        self.schedule.apply(main, at)
        self.precision.unscale(main)
        if self.attribution is not None:
            self.attribution.before_step()
        norm = self._clip(want_norm)
        if at % GRADIENT_SAMPLE_STEPS == 0:
            self._sample_gradients()
        self.precision.step(main)
        main.zero_grad(set_to_none=True)
        if self.optimizers.isolated:
            self._step_isolated(at)
        return norm

    def _clip(self, want_norm: bool) -> Tensor | None:
        if self.clip_norm is not None:
            groups = [group["params"] for group in self.optimizers.main.param_groups]
            return clip(groups, self.clip_norm, self.clip_scope)
        if want_norm:
            return gradient_norm(self.optimizers.shared_parameters())
        return None

    def _sample_gradients(self) -> None:
        for record in self.seeds.model.alive_records():
            if record.joined:
                self.seeds.model.seed_module(record).record_gradients()

    def _step_isolated(self, at: int) -> None:
        self.seeds.learn(self.clip_norm, at)
        for optimizer in self.optimizers.isolated.values():
            self.schedule.apply_alone(optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _guard_gradient(output: Any, weight: BatchWeight) -> None:
    """Let no NaN into the model from a batch in which nothing counts: its mean is 0 by 0."""
    if isinstance(weight.units, Tensor):
        for tensor in tensors(output):
            if tensor.requires_grad:
                counts = (weight.units > 0).to(tensor.device, non_blocking=True)
                tensor.register_hook(lambda gradient, counts=counts: torch.where(counts, gradient, 0.0))

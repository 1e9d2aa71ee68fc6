"""One optimizer step: forward, backward, clip, step, blend. Nothing in it waits for the device."""

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
from esper.tolaria.task import BatchAdapter, BatchMetric, batch_length, targets_to

# Steps between two samples of seeds' gradient norms (for health): a norm costs one kernel per tensor.
GRADIENT_SAMPLE_STEPS = 16


class Stepper:
    """Turns a window of micro-batches into one step of host, activated seeds and isolated seeds.

    Args:
        forward: the model's forward, possibly compiled.
        optimizers: the main optimizer and one for each isolated seed.
        seeds: the seeds' lifecycle.
        schedule: learning rates.
        loss: the loss function.
        batch_adapter: splits a batch into model arguments and targets.
        precision: autocast and gradient scaling.
        clip_norm: greatest gradient norm; None does not clip.
        backward: how gradients of micro-batches and objectives are combined; plain sums by default.
        attribution: measures seeds' shares of the gradient.
        clip_scope: "all" clips one norm over all parameters, "group" one for each group.
    """

    def __init__(
        self,
        forward: TrainingForward,
        optimizers: OptimizerManager,
        seeds: SeedManager,
        schedule: LearningRate,
        loss: LossFunction,
        batch_adapter: BatchAdapter,
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
        self.batch_adapter = batch_adapter
        self.precision = precision
        self.clip_norm = clip_norm
        self.backward = backward or PlainBackward(precision)
        self.attribution = attribution
        self.clip_scope = clip_scope

    def step(
        self, window: Sequence[Any], meters: Sequence[BatchMetric], at: int, *, return_norm: bool = False
    ) -> Tensor | None:
        """Do one optimizer step on a window of micro-batches.

        Each micro-batch's loss is weighted by its share of the mean's divisor (samples, labels that count,
        class weights): the gradients add up to those of one large batch, also in a shorter last window.
        `backward` combines the gradients of micro-batches and objectives.

        Args:
            window: the micro-batches.
            meters: each counts every micro-batch.
            at: number of steps done so far.
            return_norm: compute the gradient norm even without clipping.

        Returns:
            The gradient norm as a scalar tensor, or None if it was not computed.
        """
        adapted = [self.batch_adapter(batch) for batch in window]
        sizes = [batch_length(targets) for _, _, targets in adapted]
        divisor = self.loss.divisor
        weights = [divisor.of_batch(item[2], size) for item, size in zip(adapted, sizes, strict=True)]
        self.backward.begin(len(adapted))
        for (args, kwargs, targets), size, weight, share in zip(
            adapted, sizes, weights, shares(weights), strict=True
        ):
            with self.precision.autocast():
                output = self.forward(size, args, kwargs)
                targets = targets_to(targets, output)
                losses = compute_loss(self.loss, output, targets)
            if self.loss.gradient_may_break:
                _zero_empty_gradient(output, weight)
            for meter in meters:
                meter.add(losses, output, targets, size, weight)
            self.backward.add(losses, share)
        self.backward.finish()
        return self._finish(at, return_norm)

    def _finish(self, at: int, return_norm: bool) -> Tensor | None:
        main = self.optimizers.main
        self.schedule.apply(main, at)
        self.precision.unscale(main)
        if self.attribution is not None:
            self.attribution.before_step()
        norm = self._clip(return_norm)
        if at % GRADIENT_SAMPLE_STEPS == 0:
            self._sample_gradients()
        self.precision.step(main)
        main.zero_grad(set_to_none=True)
        if self.optimizers.isolated:
            self._step_isolated(at)
        return norm

    def _clip(self, return_norm: bool) -> Tensor | None:
        if self.clip_norm is not None:
            groups = [group["params"] for group in self.optimizers.main.param_groups]
            return clip(groups, self.clip_norm, self.clip_scope)
        if return_norm:
            return gradient_norm(self.optimizers.shared_parameters())
        return None

    def _sample_gradients(self) -> None:
        for record in self.seeds.model.alive_records():
            if record.joined:
                self.seeds.model.seed_module(record).record_gradients()

    def _step_isolated(self, at: int) -> None:
        self.seeds.learn(self.clip_norm, at)
        for optimizer in self.optimizers.isolated.values():
            self.schedule.apply_isolated(optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _zero_empty_gradient(output: Any, weight: BatchWeight) -> None:
    """Zero the gradient of a batch in which no label counts: its mean is 0 / 0, and its gradient NaN."""
    if isinstance(weight.units, Tensor):
        for tensor in tensors(output):
            if tensor.requires_grad:
                is_counted = (weight.units > 0).to(tensor.device, non_blocking=True)
                tensor.register_hook(lambda gradient, keep=is_counted: torch.where(keep, gradient, 0.0))

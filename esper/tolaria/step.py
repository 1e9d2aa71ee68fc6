"""One optimiser step: forward, backward, clip, step, blend; nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from esper.kasmina import SeedManager
from esper.tolaria.forward import TrainingForward
from esper.tolaria.optimizer import OptimizerManager
from esper.tolaria.precision import Precision
from esper.tolaria.schedule import LearningRate
from esper.tolaria.task import BatchForm, LossFunction, Meter, batch_length, follow

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
    ) -> None:
        self.forward = forward
        self.optimizers = optimizers
        self.seeds = seeds
        self.schedule = schedule
        self.loss = loss
        self.form = form
        self.precision = precision
        self.clip_norm = clip_norm

    def step(
        self, window: Sequence[Any], meters: Sequence[Meter], at: int, *, want_norm: bool = False
    ) -> Tensor | None:
        """Do step number `at` (steps done so far) and return the gradient norm where it was wanted or taken.

        Losses of the window's batches weigh by their share of samples, so that their gradients add up
        to that of one big batch, also for a window that is short. Every meter counts every batch.
        """
        parts = [self.form(batch) for batch in window]
        sizes = [batch_length(targets) for _, _, targets in parts]
        total = sum(sizes)
        for (args, kwargs, targets), size in zip(parts, sizes, strict=True):
            with self.precision.autocast():
                output = self.forward(size, args, kwargs)
                targets = follow(targets, output)
                loss = self.loss(output, targets)
            for meter in meters:
                meter.add(loss, output, targets, size)
            self.precision.backward(loss if size == total else loss * (size / total))
        return self._finish(at, want_norm)

    def _finish(self, at: int, want_norm: bool) -> Tensor | None:
        main = self.optimizers.main
        self.schedule.apply(main, at)
        self.precision.unscale(main)
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
            return torch.nn.utils.clip_grad_norm_(self.optimizers.shared_parameters(), self.clip_norm)
        if want_norm:
            params = self.optimizers.shared_parameters()
            return torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        return None

    def _sample_gradients(self) -> None:
        for record in self.seeds.model.living():
            if record.joined:
                self.seeds.model.seed_module(record).note_gradients()

    def _step_isolated(self, at: int) -> None:
        self.seeds.learn(self.clip_norm, at)
        for optimizer in self.optimizers.isolated.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

"""Lookahead: a short annealed training of a copy of the model with a candidate seed.

At a constant learning rate, or over too few steps, the order of the candidates is misleading;
annealed to zero it was the best signal that was measured (scripts/benchmarks/README.md).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.leyline import AdaptationCommand
from esper.tolaria.batches import BatchSource
from esper.tolaria.cost.flops import count_flops
from esper.tolaria.cost.meter import CostMeter
from esper.tolaria.evaluator import Evaluator
from esper.tolaria.growth.trial import copy_with_seed
from esper.tolaria.loss.criterion import Criterion
from esper.tolaria.loss.loss_state import evaluating
from esper.tolaria.loss.objectives import compute_loss, total_loss
from esper.tolaria.optimization.lr_schedule import ramp
from esper.tolaria.optimization.optimizer_manager import OptimizerFactory
from esper.tolaria.optimization.trainable import Trainable
from esper.tolaria.probe_batch import ProbeBatch
from esper.tolaria.task import batch_length, targets_to
from esper.utils.device_and_rng import seeded_rng

# Share of the steps over which the rate rises from zero: the optimizer of a copy has no state yet.
_WARMUP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class DataPosition:
    """Position in the training data: finished epochs, batches of the current epoch, steps in total."""

    epoch: int
    batch: int
    step: int


class Lookahead:
    """Trains copies of the evaluator's model on the batches that the run trains on next, the same for all.

    They are compared on held-out samples. The model and all generators are unchanged; the cost is charged to
    `cost_meter`.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        batches: BatchSource,
        probe: ProbeBatch,
        optimizer: OptimizerFactory,
        cost_meter: CostMeter,
    ) -> None:
        self.evaluator = evaluator
        self.batches = batches
        self.probe = probe
        self.optimizer = optimizer
        self.cost_meter = cost_meter

    def loss_after(
        self, command: AdaptationCommand | None, position: DataPosition, steps: int, rate: float
    ) -> float:
        """Held-out loss after training a copy.

        Args:
            command: a germination whose seed the copy gets; None for no seed.
            position: where the run is in its training data.
            steps: number of training steps.
            rate: learning rate after the warm-up.

        Raises:
            GrowthError: the seed does not fit.
        """
        model = copy_with_seed(self.evaluator.model, command, position.step)
        # a loss with parameters is copied, too: the run's must not change
        trial = self.evaluator.of(model, _own_copy(self.evaluator.loss))
        params = Trainable(model, trial.loss.loss).required()
        optimizer = self.optimizer([{"params": params, "name": "trial", "base_lr": rate, "lr": rate}])
        forward, both = self._costs(trial)
        model.train()
        with seeded_rng(self.evaluator.rng_seed + position.step, self.evaluator.task.device):
            for at, batch in enumerate(self._upcoming(position, steps)):
                self.evaluator.poll()
                optimizer.param_groups[0]["lr"] = rate * _factor(at, steps)
                samples = self._step(trial, optimizer, batch)
                self.cost_meter.add(None if both is None else both * samples)
        found = trial.run(self.probe.held_out())
        self.cost_meter.add(None if forward is None else forward * found.samples)
        return found.loss

    def _costs(self, trial: Evaluator) -> tuple[float, float] | tuple[None, None]:
        """FLOPs per sample of the trial: forward, and forward with backward; None twice if not countable."""

        def probe() -> Tensor:
            with evaluating(trial.loss):
                return self._loss(trial, self.probe.batch)[0]

        def count() -> tuple[float, float]:
            return count_flops(trial.model, probe, self.probe.samples, trial.loss.loss)

        measurements = self.cost_meter.measurements
        found = count() if measurements is None else measurements.take("train_flops", count)
        return (None, None) if found is None else found

    def _upcoming(self, position: DataPosition, steps: int) -> Iterator[Any]:
        """The next batches of the run, across the end of an epoch."""
        epoch, start, left = position.epoch + 1, position.batch, steps
        while left > 0:
            for batch in self.batches.batches(epoch, start):
                yield batch
                left -= 1
                if left == 0:
                    return
            epoch, start = epoch + 1, 0

    def _step(self, trial: Evaluator, optimizer: torch.optim.Optimizer, batch: Any) -> int:
        loss, samples = self._loss(trial, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return samples

    def _loss(self, trial: Evaluator, batch: Any) -> tuple[Tensor, int]:
        args, kwargs, targets = trial.task.batch_adapter(batch)
        with trial.task.precision.autocast():
            output = trial.model.forward(*args, **kwargs)
            losses = compute_loss(trial.loss, output, targets_to(targets, output))
            return total_loss(losses, trial.task.combine_losses), batch_length(targets)


def _own_copy(criterion: Criterion) -> Criterion:
    """The criterion with a copy of its loss if that has parameters."""
    if not isinstance(criterion.loss, nn.Module):
        return criterion
    found = copy.copy(criterion)
    found.loss = copy.deepcopy(criterion.loss)
    return found


def _factor(at: int, steps: int) -> float:
    """Half a cosine down to zero, times the warm-up."""
    return ramp(at, round(_WARMUP_SHARE * steps)) * 0.5 * (1 + math.cos(math.pi * at / steps))

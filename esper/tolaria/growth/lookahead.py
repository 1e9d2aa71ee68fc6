"""A look ahead: a short annealed training of a copy, with the seed in it.

At a constant learning rate, or over too few steps, the order in which candidates come out is misleading;
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
from esper.tolaria.loss.objectives import compute_loss, in_total
from esper.tolaria.optimization.lr_schedule import ramp
from esper.tolaria.optimization.optimizer_manager import OptimizerFactory
from esper.tolaria.optimization.trainable import Trainable
from esper.tolaria.probe_batch import ProbeBatch
from esper.tolaria.task import batch_length, targets_to
from esper.utils.device_and_rng import seeded_rng

# Share of the steps over which the rate climbs from nothing: the optimiser of a copy starts afresh.
_WARMUP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class DataPosition:
    """Where in the training data a run stands: finished epochs, batches of the running one, steps in all."""

    epoch: int
    batch: int
    step: int


class Lookahead:
    """Trains copies of the evaluator's model on the batches that the run will see next, all on the same ones.

    Held-out samples judge them. The model and all generators stay as they are; what it costs is charged to
    `account`.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        batches: BatchSource,
        probe: ProbeBatch,
        optimizer: OptimizerFactory,
        account: CostMeter,
    ) -> None:
        self.evaluator = evaluator
        self.batches = batches
        self.probe = probe
        self.optimizer = optimizer
        self.account = account

    def loss_after(
        self, command: AdaptationCommand | None, place: DataPosition, steps: int, rate: float
    ) -> float:
        """Held-out loss after `steps` steps with the seed that a germination asks for, or without one.

        `rate` is the learning rate after the warm-up. Raises `GrowthError` where the seed does not fit.
        """
        trial = copy_with_seed(self.evaluator.model, command, place.step)
        # a loss may learn, too: what it would learn here is not the run's
        judged = self.evaluator.of(trial, _own_copy(self.evaluator.loss))
        params = Trainable(trial, judged.loss.loss).required()
        optimizer = self.optimizer([{"params": params, "name": "trial", "base_lr": rate, "lr": rate}])
        forward, both = self._costs(judged)
        trial.train()
        with seeded_rng(self.evaluator.rng_seed + place.step, self.evaluator.device):
            for at, batch in enumerate(self._upcoming(place, steps)):
                self.evaluator.attend()
                optimizer.param_groups[0]["lr"] = rate * _factor(at, steps)
                samples = self._step(judged, optimizer, batch)
                self.account.add(None if both is None else both * samples)
        found = judged.run(self.probe.held_out())
        self.account.add(None if forward is None else forward * found.samples)
        return found.loss

    def _costs(self, judged: Evaluator) -> tuple[float, float] | tuple[None, None]:
        """FLOPs of a sample in the trial, forward and in all; None twice where they cannot be counted."""

        def probe() -> Tensor:
            with evaluating(judged.loss):
                return self._loss(judged, self.probe.batch)[0]

        def count() -> tuple[float, float]:
            return count_flops(judged.model, probe, self.probe.samples, judged.loss.loss)

        measurements = self.account.measurements
        found = count() if measurements is None else measurements.take("train_flops", count)
        return (None, None) if found is None else found

    def _upcoming(self, place: DataPosition, steps: int) -> Iterator[Any]:
        """Batches from where the run stands, over the end of an epoch into the one after it."""
        epoch, start, left = place.epoch + 1, place.batch, steps
        while left > 0:
            for batch in self.batches.batches(epoch, start):
                yield batch
                left -= 1
                if left == 0:
                    return
            epoch, start = epoch + 1, 0

    def _step(self, judged: Evaluator, optimizer: torch.optim.Optimizer, batch: Any) -> int:
        loss, samples = self._loss(judged, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return samples

    def _loss(self, judged: Evaluator, batch: Any) -> tuple[Tensor, int]:
        e = judged
        args, kwargs, targets = e.form(batch)
        with e.precision.autocast():
            output = e.model.forward(*args, **kwargs)
            losses = compute_loss(e.loss, output, targets_to(targets, output))
            return in_total(losses, e.total), batch_length(targets)


def _own_copy(criterion: Criterion) -> Criterion:
    """With a loss of its own where the loss may learn."""
    if not isinstance(criterion.loss, nn.Module):
        return criterion
    found = copy.copy(criterion)
    found.loss = copy.deepcopy(criterion.loss)
    return found


def _factor(at: int, steps: int) -> float:
    """Half a cosine down to nothing, times the warm-up."""
    return ramp(at, round(_WARMUP_SHARE * steps)) * 0.5 * (1 + math.cos(math.pi * at / steps))

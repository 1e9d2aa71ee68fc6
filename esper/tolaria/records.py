"""Metrics records of a run: one for each epoch, and one for each recorded step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from esper.kasmina import SeedManager
from esper.tolaria.components import Records
from esper.tolaria.evaluator import Evaluation
from esper.tolaria.loss.accuracy import Accuracy
from esper.tolaria.loss.objectives import CombineLosses, sum_losses
from esper.tolaria.task import RunningMetrics
from esper.tolaria.train_state import Progress


class StepMetrics:
    """Metrics of single steps, kept on the device until the epoch ends.

    Args:
        interval: record every n-th step; 0 or less records none.
        device: where sums are kept.
        combine_losses: makes one loss of several objectives.
        accuracy: how right answers are counted.
    """

    def __init__(
        self,
        interval: int,
        device: torch.device,
        combine_losses: CombineLosses = sum_losses,
        accuracy: Accuracy | None = None,
    ) -> None:
        self.interval = interval
        self.device = device
        self.combine_losses = combine_losses
        self.accuracy = accuracy
        self._pending: list[tuple[int, RunningMetrics, Tensor | None, Mapping[str, Tensor]]] = []

    def meter(self, step: int) -> RunningMetrics | None:
        """A meter for step number `step` (from 1), or None if that step is not recorded."""
        if self.interval <= 0 or step % self.interval:
            return None
        return RunningMetrics(self.device, self.combine_losses, self.accuracy)

    def add(
        self,
        step: int,
        meter: RunningMetrics,
        norm: Tensor | None,
        conflicts: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep a step's meter, gradient norm and, if tasks were combined, their conflicts."""
        self._pending.append((step, meter, norm, dict(conflicts or {})))

    def forget(self) -> None:
        """Drop what was not flushed: it belongs to steps that are undone."""
        self._pending.clear()

    def flush(self, records: Records) -> None:
        """Read all pending metrics and pass them to `records`."""
        for step, meter, norm, conflicts in self._pending:
            loss, accuracy = meter.read()
            grad_norm = None if norm is None else norm.item()
            record = {"step": step, "loss": loss, "accuracy": accuracy, "grad_norm": grad_norm}
            values = {name: value.item() for name, value in conflicts.items()}
            records.step({**record, **_without_empty({"losses": meter.objectives(), "grad_agg": values})})
        self._pending.clear()


@dataclass(frozen=True, slots=True)
class TrainingMetrics:
    """Results of training for one epoch.

    Args:
        loss: mean loss.
        accuracy: share of right answers, or None.
        objectives: mean of each objective, if the loss has several.
        aggregated: statistics of combined gradients, if gradients were combined.
    """

    loss: float
    accuracy: float | None
    objectives: Mapping[str, float] = field(default_factory=dict)
    aggregated: Mapping[str, Any] | None = None


def epoch_record(
    progress: Progress,
    train: TrainingMetrics,
    validation: Evaluation,
    seeds: SeedManager,
    *,
    learning_rate: float,
    epoch_time: float,
    growing: bool,
) -> Mapping[str, Any]:
    """The record of an epoch: the names of `leyline.EPOCH_METRICS` and the seeds' current state.

    Args:
        progress: the loop's counters.
        train: the results of training.
        validation: the validation results.
        seeds: the seeds' lifecycle.
        learning_rate: base rate of the epoch's last step.
        epoch_time: seconds.
        growing: whether the run grows its network.
    """
    stats = seeds.model.get_model_stats()
    return {
        "epoch": progress.epoch,
        "step": progress.step,
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "val_loss": validation.loss,
        "val_accuracy": validation.accuracy,
        "epoch_time": epoch_time,
        "learning_rate": learning_rate,
        "morphogenetic_active": growing,
        "active_seeds": stats["active_seeds"],
        "total_seeds": stats["total_seeds"],
        "kernel_executions": stats["total_kernel_executions"],
        "params": seeds.model.total_params(),
        "seeds": [
            {
                "layer": record.layer,
                "seed": record.index,
                "blueprint": record.blueprint,
                "stage": record.stage.value,
                "alpha": round(seeds.alpha(record), 6),
            }
            for record in seeds.model.alive_records()
        ],
        **_without_empty(
            {
                "train_losses": train.objectives,
                "val_losses": validation.objectives,
                "grad_agg": train.aggregated,
            },
        ),
    }


def _without_empty(record: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """Only what there is something in: most losses are one number, most gradients a plain sum."""
    return {name: value for name, value in record.items() if value}

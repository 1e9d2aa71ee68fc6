"""What a run writes down: a record for each epoch, and one for each step that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper.kasmina import SeedManager
from esper.tolaria.components import Records
from esper.tolaria.evaluator import Evaluation
from esper.tolaria.loss.accuracy import Accuracy
from esper.tolaria.loss.objectives import Total, sum_losses
from esper.tolaria.task import RunningMetrics
from esper.tolaria.train_state import Progress


class StepMetrics:
    """Measurements of single steps, kept on the device until the epoch ends."""

    def __init__(
        self, interval: int, device: torch.device, total: Total = sum_losses, accuracy: Accuracy | None = None
    ) -> None:
        self.interval = interval
        self.device = device
        self.total = total
        self.accuracy = accuracy
        self._pending: list[tuple[int, RunningMetrics, Tensor | None, Mapping[str, Tensor]]] = []

    def meter(self, step: int) -> RunningMetrics | None:
        """A meter for step number `step` (from 1) where that one is to be recorded."""
        if self.interval <= 0 or step % self.interval:
            return None
        return RunningMetrics(self.device, self.total, self.accuracy)

    def add(
        self,
        step: int,
        meter: RunningMetrics,
        norm: Tensor | None,
        conflicts: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep a step's meter, gradient norm and, where tasks were combined, their conflicts."""
        self._pending.append((step, meter, norm, dict(conflicts or {})))

    def forget(self) -> None:
        """Drop what has not been passed on: it belongs to steps that are undone."""
        self._pending.clear()

    def flush(self, records: Records) -> None:
        """Read all of them and pass them on."""
        for step, meter, norm, conflicts in self._pending:
            loss, accuracy = meter.read()
            grad_norm = None if norm is None else norm.item()
            line = {"step": step, "loss": loss, "accuracy": accuracy, "grad_norm": grad_norm}
            found = {name: value.item() for name, value in conflicts.items()}
            records.step({**line, **_filled({"losses": meter.objectives(), "grad_agg": found})})
        self._pending.clear()


def epoch_record(
    progress: Progress,
    trained: tuple[float, float | None],
    validation: Evaluation,
    seeds: SeedManager,
    *,
    learning_rate: float,
    epoch_time: float,
    growing: bool,
    objectives: Mapping[str, float] | None = None,
    aggregated: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """The names of `leyline.EPOCH_METRICS`, and the seeds as they stand.

    Where the loss has several objectives also the mean of each, in training (`objectives`) and validation;
    where their or micro-batches' gradients were combined, what came of that.
    """
    stats = seeds.model.get_model_stats()
    return {
        "epoch": progress.epoch,
        "step": progress.step,
        "train_loss": trained[0],
        "train_accuracy": trained[1],
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
        **_filled(
            {"train_losses": objectives, "val_losses": validation.objectives, "grad_agg": aggregated},
        ),
    }


def _filled(line: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """Only what there is something in: most losses are one number, most gradients a plain sum."""
    return {name: value for name, value in line.items() if value}

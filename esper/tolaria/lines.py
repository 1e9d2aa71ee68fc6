"""What a run writes down: a record for each epoch, and one for each step that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper.kasmina import SeedManager
from esper.tolaria.evaluate import Evaluation
from esper.tolaria.parts import Records
from esper.tolaria.progress import Progress
from esper.tolaria.task import Meter


class StepLines:
    """Measurements of single steps, kept on the device until the epoch ends."""

    def __init__(self, interval: int, device: torch.device) -> None:
        self.interval = interval
        self.device = device
        self._pending: list[tuple[int, Meter, Tensor | None]] = []

    def meter(self, step: int) -> Meter | None:
        """A meter for step number `step` (from 1) where that one is to be recorded."""
        return Meter(self.device) if self.interval > 0 and step % self.interval == 0 else None

    def add(self, step: int, meter: Meter, norm: Tensor | None) -> None:
        self._pending.append((step, meter, norm))

    def flush(self, records: Records) -> None:
        """Read all of them and pass them on."""
        for step, meter, norm in self._pending:
            loss, accuracy = meter.read()
            grad_norm = None if norm is None else norm.item()
            records.step({"step": step, "loss": loss, "accuracy": accuracy, "grad_norm": grad_norm})
        self._pending.clear()


def epoch_line(
    progress: Progress,
    trained: tuple[float, float | None],
    validation: Evaluation,
    seeds: SeedManager,
    *,
    learning_rate: float,
    epoch_time: float,
    growing: bool,
) -> Mapping[str, Any]:
    """The names of `leyline.EPOCH_METRICS`, and the seeds as they stand."""
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
            for record in seeds.model.living()
        ],
    }

"""The components of a run; `esper.runs` builds them from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from esper.data import DataInfo
from esper.kasmina import MorphableModel
from esper.leyline import Event
from esper.tolaria.callbacks import Callbacks

if TYPE_CHECKING:
    from esper.tolaria.batches import Loader
    from esper.tolaria.gradients import Aggregator
    from esper.tolaria.growth.controller import Tamiyo
    from esper.tolaria.loss.criterion import Metric
    from esper.tolaria.loss.objectives import LossFunction
    from esper.tolaria.optimization.lr_schedule import ScheduleFactory
    from esper.tolaria.optimization.optimizer_manager import OptimizerFactory
    from esper.tolaria.task import BatchAdapter


class Records(Protocol):
    """Receives a run's records, as `esper.loggers.LoggerHub` does."""

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def step(self, record: Mapping[str, Any]) -> None: ...

    def event(self, event: Event) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def sync(self) -> None: ...

    def rewind(self, state: Mapping[str, Any]) -> None: ...

    def rewound(self, state: Mapping[str, Any]) -> dict[str, Any]: ...


class ProgressCallback(Protocol):
    """Notified after each optimizer step with the number of steps done in the epoch; must be cheap."""

    def progress(self, step_in_epoch: int, loss: float | None) -> None: ...


@dataclass(frozen=True, slots=True)
class TrainingComponents:
    """Everything a run needs besides its configuration.

    `tamiyo` is None if the network must not grow, `aggregator` if gradients are added up, `metric` if
    accuracy or nothing is measured.
    """

    model: MorphableModel
    data: DataInfo
    train: Loader
    validation: Loader
    test: Loader
    loss: LossFunction
    batch_adapter: BatchAdapter
    optimizer: OptimizerFactory
    schedule: ScheduleFactory
    tamiyo: Tamiyo | None
    device: torch.device
    records: Records
    progress_callback: ProgressCallback
    run_dir: Path
    aggregator: Aggregator | None = None
    metric: Metric | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)

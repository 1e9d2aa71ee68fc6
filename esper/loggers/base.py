"""The interface of a logger, and what it gets to know of a run before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from esper.leyline import Event

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Facts about a run, known before its first step.

    `config` is the resolved configuration in plain types. `start_step` is the number of optimiser steps
    that are already done (0 in a fresh run). `group` is a sweep's name and `job` the job's in it.
    `state` is what `LoggerHub.state()` returned when the resumed run was saved.
    """

    session_name: str
    run_dir: Path
    config: Mapping[str, Any]
    max_epochs: int
    steps_per_epoch: int
    samples_per_epoch: int
    params_host: int
    start_step: int
    resumed: bool = False
    group: str | None = None
    job: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)


class Logger(Protocol):
    """Base class of loggers; the methods do nothing unless a logger overrides them.

    `name` is the key of its saved state. `every_epoch` asks for epochs between metric intervals, too.
    """

    name: str
    every_epoch: bool = False

    def start(self, info: RunInfo) -> None:
        """Open what the logger writes to; `info.state.get(self.name)` is its own saved state."""
        return

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log one epoch: the names of `leyline.EPOCH_METRICS` and maybe more; `epoch` counts from 1.

        Accuracies are shares in [0, 1], times are seconds. `seeds`, where it is there, lists a mapping
        with layer, seed, blueprint, stage and alpha for each seed that is not dormant.
        """
        return

    def step(self, record: Mapping[str, Any]) -> None:
        """Log one optimiser step: step, loss, accuracy, grad_norm."""
        return

    def event(self, event: Event) -> None:
        """Log one event."""
        return

    def sync(self) -> None:
        """Make everything that `state()` covers durable; may be called from another thread."""
        return

    def missing(self) -> list[str]:
        """Return a sentence for each file of the logger that no longer exists."""
        return []

    def rewind(self, state: Mapping[str, Json]) -> None:
        """Go back to an earlier `state()`: the epochs and steps after it will be logged again."""
        return

    def rewound(self, state: Mapping[str, Json]) -> dict[str, Json]:
        """Return what `state()` will return after `rewind(state)`; nothing is changed yet."""
        return self.state()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the summary of a run that has finished."""
        return

    def close(self) -> None:
        """Release files, threads and processes; called once, also after a failure."""
        return

    def state(self) -> dict[str, Json]:
        """Return what a resumed run needs to continue the same files and ids."""
        return {}

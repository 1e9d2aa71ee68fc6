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

    Args:
        session_name: Name of the run.
        run_dir: Folder of the run.
        config: The resolved configuration in plain types.
        max_epochs: Epochs of the run.
        steps_per_epoch: Optimiser steps in an epoch.
        samples_per_epoch: Training samples in an epoch.
        params_host: Parameters of the host.
        start_step: Optimiser steps that are already done; 0 in a fresh run.
        resumed: Whether the run was resumed.
        group: Name of the sweep; None outside of one.
        job: Name of the job in its sweep.
        state: What `LoggerHub.state()` returned when the resumed run was saved.

    Example:
        >>> info.run_dir / "mylog.txt"  # doctest: +SKIP
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

    Example:
        >>> class PrintLoss(Logger):
        ...     name = "print_loss"
        ...
        ...     def epoch(self, record):
        ...         print(record["epoch"], record["val_loss"])
        >>> PrintLoss().epoch({"epoch": 1, "val_loss": 0.5})
        1 0.5
    """

    name: str
    every_epoch: bool = False

    def start(self, info: RunInfo) -> None:
        """Open what the logger writes to.

        Args:
            info: Facts about the run; `info.state.get(self.name)` is the logger's own saved state.
        """
        return

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log one epoch.

        Args:
            record: The names of `leyline.EPOCH_METRICS` and maybe more; `epoch` counts from 1. Accuracies are
                shares in [0, 1], times are seconds. `seeds`, where it is there, lists a mapping with layer,
                seed, blueprint, stage and alpha for each seed that is not dormant.
        """
        return

    def step(self, record: Mapping[str, Any]) -> None:
        """Log one optimiser step.

        Args:
            record: `step`, `loss`, `accuracy`, `grad_norm`.
        """
        return

    def event(self, event: Event) -> None:
        """Log one event.

        Args:
            event: Its name, level, values and time.
        """
        return

    def sync(self) -> None:
        """Make everything that `state()` covers durable; may be called from another thread."""
        return

    def missing(self) -> list[str]:
        """Check that the logger's files still exist.

        Returns:
            A sentence for each file that does not.
        """
        return []

    def rewind(self, state: Mapping[str, Json]) -> None:
        """Go back to an earlier `state()`: the epochs and steps after it will be logged again.

        Args:
            state: What `state()` returned.
        """
        return

    def rewound(self, state: Mapping[str, Json]) -> dict[str, Json]:
        """The state that a rewind leads to; nothing is changed yet.

        Args:
            state: What `state()` returned.

        Returns:
            What `state()` will return after `rewind(state)`.
        """
        return self.state()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log the summary of a run that has finished.

        Args:
            summary: The content of `summary.json`.
        """
        return

    def close(self) -> None:
        """Release files, threads and processes; called once, also after a failure."""
        return

    def state(self) -> dict[str, Json]:
        """The state to save.

        Returns:
            What a resumed run needs to continue the same files and ids, as JSON values.
        """
        return {}

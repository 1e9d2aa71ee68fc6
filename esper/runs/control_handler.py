"""What a run answers and does when somebody asks it from outside; see `esper.control`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.config import TolariaConfig
from esper.loggers import StatusLogger
from esper.tolaria.run_control import RunControl

if TYPE_CHECKING:
    from esper.tolaria.loop import TrainingLoop


class ControlHandler:
    """The actions behind each command; called from any thread, none of them waits for the loop."""

    def __init__(
        self, config: TolariaConfig, run_dir: Path, run_control: RunControl, status: StatusLogger
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.run_control = run_control
        self.status_sink = status
        self.run: TrainingLoop | None = None

    def actions(self) -> dict[str, Callable[[], Mapping[str, Any] | Future[str]]]:
        return {
            "status": self.status,
            "pause": self.pause,
            "resume": self.resume,
            "stop": self.stop,
            "checkpoint": self.run_control.checkpoint,
        }

    def status(self) -> dict[str, Any]:
        """Where the run is: JSON values."""
        progress = None if self.run is None else self.run.progress
        return {
            "state": self._state(),
            "session_name": self.config.session_name,
            "run_dir": str(self.run_dir.absolute()),
            "pid": os.getpid(),
            "epoch": progress.epoch if progress else 0,
            "max_epochs": self.config.optimization.max_epochs,
            "step": progress.step if progress else 0,
            "paused": self.run_control.paused,
        } | self.status_sink.facts()

    def pause(self) -> dict[str, Any]:
        if self._ending():
            return {"said": "the run is ending already"}
        self.run_control.pause()
        return {"said": "it is held after the present batch"}

    def resume(self) -> dict[str, Any]:
        if not self.run_control.paused:
            return {"said": "it was not paused"}
        self.run_control.resume()
        return {"said": "it goes on"}

    def stop(self) -> dict[str, Any]:
        if self._ending():
            return {"said": "the run is ending already"}
        self.run_control.stop()
        return {"said": "it saves and ends after the present batch"}

    def _state(self) -> str:
        if self.run is None:
            return "starting"
        if self._ending():
            return "ending"
        return "paused" if self.run_control.paused else "running"

    def _ending(self) -> bool:
        ended = self.run is not None and self.run.progress.stopped_by
        return bool(self.run_control.stop_reason or ended)

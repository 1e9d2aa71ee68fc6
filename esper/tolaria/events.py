"""The one place where Tolaria's events get their time, step and epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from esper.leyline import Event, Level


class EventSink(Protocol):
    """Where events go; `esper.loggers.Recorder` is one."""

    def event(self, event: Event) -> None: ...


class Telemetry:
    """Emits events; `step` and `epoch` are kept up to date by the loop."""

    def __init__(self, sink: EventSink, clock: Callable[[], float] = time.time) -> None:
        self.sink = sink
        self.clock = clock
        self.step = 0
        self.epoch = 0

    def emit(self, name: str, data: Mapping[str, Any] | None = None, *, level: str = Level.INFO) -> None:
        """Send one event with the present time, step and epoch."""
        self.sink.event(Event(self.clock(), name, level, self.step, self.epoch, dict(data or {})))

    def warn(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        self.emit(name, data, level=Level.WARNING)

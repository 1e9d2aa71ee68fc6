"""Emits Tolaria's events with time, step and epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from esper.leyline import Event, Level


class EventSink(Protocol):
    """Receives events, as `esper.loggers.LoggerHub` does."""

    def event(self, event: Event) -> None: ...


class Telemetry:
    """Emits events; the loop keeps `step` and `epoch` up to date.

    Args:
        sink: receives the events.
        clock: wall clock in seconds since 1970.
    """

    def __init__(self, sink: EventSink, clock: Callable[[], float] = time.time) -> None:
        self.sink = sink
        self.clock = clock
        self.step = 0
        self.epoch = 0

    def emit(self, name: str, data: Mapping[str, Any] | None = None, *, level: str = Level.INFO) -> None:
        """Send one event with the current time, step and epoch."""
        self.sink.event(Event(self.clock(), name, level, self.step, self.epoch, dict(data or {})))

    def warn(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Send one event of level warning."""
        self.emit(name, data, level=Level.WARNING)

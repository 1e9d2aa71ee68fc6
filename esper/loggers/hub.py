"""Passes the records and events of a run on to its loggers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esper.leyline import Event, EventName, Level
from esper.loggers.base import Json, Logger, RunInfo
from esper.loggers.bounded_queue import BoundedQueue

_log = logging.getLogger("esper.loggers")


class LoggerHub:
    """Hands records to `files` at once, on the caller's thread, and to `slow` on a thread of its own.

    A slow logger that raises is switched off and closed, with one `logger_failed` event to the others; the
    run continues. Slow loggers that cannot keep up lose step records first (see `BoundedQueue`): the loop
    never waits. What `files` raise is raised to the caller. Loggers get each `metrics_interval`-th epoch and
    the last of a run that finishes; one with `every_epoch` gets them all. `clock` returns seconds since 1970.
    """

    def __init__(
        self,
        files: Sequence[Logger],
        slow: Sequence[Logger],
        clock: Callable[[], float],
        *,
        metrics_interval: int = 1,
        capacity: int = 4096,
    ) -> None:
        self._files = list(files)
        self._clock = clock
        self._interval = metrics_interval
        self._queue = BoundedQueue(capacity)
        self._worker = _Worker(slow, self._queue)
        self._info: RunInfo | None = None
        self._pending_epoch: dict[str, Any] | None = None
        self._step = 0
        self._epoch = 0

    @property
    def dropped(self) -> dict[str, int]:
        """How many records the slow loggers did not get because they were too slow, by kind."""
        return dict(self._queue.dropped)

    def start(self, info: RunInfo) -> None:
        """Open the files, and let the slow loggers open theirs."""
        self._info = info
        self._step = info.start_step
        for logger in self._files:
            logger.start(info)
        self._worker.start(info)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._step, self._epoch = record["step"], record["epoch"]
        for logger in self._files:
            if logger.every_epoch:
                logger.epoch(record)
        self._pending_epoch = dict(record)
        if self._epoch % self._interval == 0:
            self._emit_pending_epoch()

    def step(self, record: Mapping[str, Any]) -> None:
        self._step = record["step"]
        for logger in self._files:
            logger.step(record)
        self._enqueue("step", dict(record))

    def event(self, event: Event) -> None:
        self._step, self._epoch = event.step, event.epoch
        self._log_to_files(event)
        self._enqueue("event", event)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._emit_pending_epoch()
        for logger in self._files:
            logger.finish(summary)
        self._enqueue("finish", dict(summary))

    def close(self, timeout_s: float = 30.0) -> None:
        """Give the slow loggers `timeout_s` to write what is left, then close everything."""
        try:
            self._queue.put("close", None)
            self._queue.end()
            late = self._worker.join(timeout_s)
            self._report_failures()
            if late:
                self._warn(EventName.LOGGER_FAILED, sinks=late, error=f"not done within {timeout_s:g} s")
            if self.dropped:
                self._warn(EventName.NOTICE, message="loggers were too slow", dropped=self.dropped)
        finally:
            for logger in self._files:
                logger.close()

    def state(self) -> dict[str, dict[str, Json]]:
        """Return each logger's state by its name; right from the start, and so before the first step."""
        return self._states({logger.name: logger.state() for logger in self._files})

    def rewound(self, state: Mapping[str, Any]) -> dict[str, dict[str, Json]]:
        """Return what `state()` will return after `rewind(state)`: for a checkpoint that is saved before."""
        rewound = {logger.name: logger.rewound(state.get(logger.name, {})) for logger in self._files}
        return self._states(rewound)

    def _states(self, of_files: dict[str, dict[str, Json]]) -> dict[str, dict[str, Json]]:
        assert self._info is not None, "LoggerHub.state() before start()"
        states = of_files | self._worker.states(self._info.state)
        return {name: state for name, state in states.items() if state}

    def sync(self) -> None:
        """Make the files durable up to the last `state()`; from any thread."""
        for logger in self._files:
            logger.sync()

    def missing(self) -> list[str]:
        """A sentence for each file of the records that was removed or replaced meanwhile."""
        return [sentence for logger in self._files for sentence in logger.missing()]

    def rewind(self, state: Mapping[str, Any]) -> None:
        """Go back to an earlier `state()`: epochs and steps since then will come again, events stay.

        Slow loggers keep what they have been sent.
        """
        self._pending_epoch = None
        for logger in self._files:
            logger.rewind(state.get(logger.name, {}))

    def _emit_pending_epoch(self) -> None:
        """Pass the pending epoch to the loggers that do not get every epoch."""
        if self._pending_epoch is None:
            return
        for logger in self._files:
            if not logger.every_epoch:
                logger.epoch(self._pending_epoch)
        self._enqueue("epoch", self._pending_epoch)
        self._pending_epoch = None

    def _enqueue(self, kind: str, payload: Any) -> None:
        self._report_failures()
        if self._worker.running:
            self._queue.put(kind, payload)

    def _report_failures(self) -> None:
        while self._worker.failures:
            name, error = self._worker.failures.popleft()
            self._warn(EventName.LOGGER_FAILED, sink=name, error=f"{type(error).__name__}: {error}")

    def _warn(self, name: str, **data: Any) -> None:
        event = Event(self._clock(), name, Level.WARNING, self._step, self._epoch, data)
        self._log_to_files(event)
        if self._worker.running:
            self._queue.put("event", event)

    def _log_to_files(self, event: Event) -> None:
        for logger in self._files:
            logger.event(event)


class _Worker:
    """The slow loggers and their thread. Only that thread calls them, `start` and `state` excepted.

    They are started on the caller's thread, before the run begins: a logger that loads native modules or
    sets environment variables while another thread computes has crashed the process (once in some fifty
    runs, by a signal, with nothing to read).
    """

    def __init__(self, loggers: Sequence[Logger], queue: BoundedQueue) -> None:
        self.failures: deque[tuple[str, Exception]] = deque()
        self._loggers = list(loggers)
        self._all = tuple(loggers)
        self._started: set[str] = set()
        self._queue = queue
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and bool(self._loggers)

    def start(self, info: RunInfo) -> None:
        for logger in list(self._loggers):
            if self._call(logger, "start", info):
                self._started.add(logger.name)
        if self._loggers:
            # A daemon: a logger that never returns must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="esper-records", daemon=True)
            self._thread.start()

    def join(self, timeout_s: float) -> list[str]:
        """Wait for the thread to end; return the names of the loggers that were not done by then."""
        if self._thread is None:
            return []
        self._thread.join(timeout_s)
        return [logger.name for logger in self._loggers] if self._thread.is_alive() else []

    def states(self, saved: Mapping[str, Any]) -> dict[str, dict[str, Json]]:
        """Return the loggers' states; for one that has not restored its saved state yet, the saved one."""
        waiting = {logger.name for logger in self._all} - self._started
        return {
            logger.name: saved[logger.name] if logger.name in waiting & saved.keys() else logger.state()
            for logger in self._all
        }

    def _work(self) -> None:
        while (item := self._queue.take()) is not None:
            for logger in list(self._loggers):
                self._call(logger, item.kind, item.payload)

    def _call(self, logger: Logger, kind: str, payload: Any) -> bool:
        try:
            logger.close() if kind == "close" else getattr(logger, kind)(payload)
        except Exception as error:  # noqa: BLE001 - whatever a logger raises, it is not worth the run
            _log.debug("%s failed in %s", logger.name, kind, exc_info=True)
            self._loggers.remove(logger)
            self.failures.append((logger.name, error))
            if kind != "close":
                self._close(logger)
            return False
        return True

    def _close(self, logger: Logger) -> None:
        try:
            logger.close()
        except Exception:  # noqa: BLE001 - it has failed before, and that was reported
            _log.debug("%s failed again in close", logger.name, exc_info=True)

"""Sends emergency signals from a background thread; no step waits for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from esper.leyline import EmergencySignal

Send = Callable[[EmergencySignal], None]

# Seconds until a failed broadcast is tried again; doubled with every failure.
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class DispatchProblem:
    """A broadcast that has not arrived: it raised, or (`late`) has not returned in time."""

    late: bool
    reason: str


class NotifierWorker:
    """Sends signals in order, at most `cap` in every `window_s` seconds.

    A failed signal is tried again before those behind it; one that exceeds the cap waits. The queue is
    bounded: if it is full, the oldest waiting signal of the lowest level is dropped, counted and reported by
    `problems`; the newest one and the highest levels stay. `send` may block for any time. The first signal
    starts the thread, which is a daemon.
    """

    def __init__(
        self,
        send: Send,
        *,
        cap: int = 10,
        window_s: float = 10.0,
        capacity: int = 64,
        timeout_s: float = 2.0,
    ) -> None:
        self._send = send
        self._cap, self._window_s = cap, window_s
        self._capacity, self._timeout_s = capacity, timeout_s
        self._queue: deque[EmergencySignal] = deque()
        self._times: deque[float] = deque(maxlen=cap)
        self._problems: deque[DispatchProblem] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._abandoned = False
        self._sending_since: float | None = None
        self._late_reported = False
        self._drops_reported, self._lost = 0, ""
        self._retry_s = FIRST_RETRY_S
        self.sent = self.failures = self.dropped = self.capped = 0
        self.last_latency_ms: float | None = None

    def publish(self, signal: EmergencySignal) -> None:
        """Queue a signal; returns at once."""
        with self._change:
            if len(self._queue) >= self._capacity:
                self._drop_one()
            self._queue.append(signal)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="esper-broadcast", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def _drop_one(self) -> None:
        """Drop one signal, but not the first, which may be being sent."""
        place = min(range(1, len(self._queue)), key=lambda index: (self._queue[index].level, index))
        lost = self._queue[place]
        del self._queue[place]
        self.dropped += 1
        self._lost = f"the last of them of level {int(lost.level)} at step {lost.step}"

    def problems(self) -> list[DispatchProblem]:
        """Problems since the last call; for the loop to call regularly."""
        since = self._sending_since
        if since is not None and not self._late_reported and time.monotonic() - since > self._timeout_s:
            self._late_reported = True
            self.failures += 1
            reason = f"a broadcast has not returned within {self._timeout_s:g} s"
            self._problems.append(DispatchProblem(True, reason))
        found = []
        while self._problems:
            found.append(self._problems.popleft())
        lost, self._drops_reported = self.dropped - self._drops_reported, self.dropped
        if lost:
            count = f"{lost} broadcasts were" if lost > 1 else "1 broadcast was"
            reason = f"{count} given up: {self._capacity} are waiting; {self._lost}"
            found.append(DispatchProblem(False, reason))
        return found

    def status(self) -> dict[str, Any]:
        """Counts; `queued` signals are still to be sent, including failed and capped ones."""
        return {
            "queued": len(self._queue),
            "sent": self.sent,
            "failures": self.failures,
            "capped": self.capped,
            "dropped": self.dropped,
            "last_latency_ms": self.last_latency_ms,
        }

    def close(self, timeout_s: float = 2.0) -> int:
        """Wait up to `timeout_s` for the queue, without cap and retries. Returns how many were not sent."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return len(self._queue)

    # -- on the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        while (signal := self._next()) is not None:
            began = self._sending_since = time.monotonic()
            try:
                self._send(signal)
            except Exception as error:  # noqa: BLE001 - a failing receiver must not end the run
                self._failed(error)
            else:
                self._arrived(1e3 * (time.monotonic() - began))
            self._sending_since, self._late_reported = None, False

    def _next(self) -> EmergencySignal | None:
        """Wait for a signal that may be sent now; None if the thread must end."""
        with self._change:
            capped = False
            while True:
                if self._abandoned:
                    return None
                if self._queue and (self._closing or self._wait_s() <= 0.0):
                    return self._queue[0]
                if self._closing:
                    return None
                if self._queue and not capped:
                    capped = True
                    self.capped += 1
                self._change.wait(self._wait_s() if self._queue else None)

    def _wait_s(self) -> float:
        """Seconds until the cap allows another signal."""
        if len(self._times) < self._cap:
            return 0.0
        return self._times[0] + self._window_s - time.monotonic()

    def _arrived(self, latency_ms: float) -> None:
        with self._change:
            self._queue.popleft()
            self._times.append(time.monotonic())
            self.sent += 1
            self.last_latency_ms = latency_ms
            self._retry_s = FIRST_RETRY_S

    def _failed(self, error: Exception) -> None:
        with self._change:
            self._times.append(time.monotonic())
            self.failures += 1
            self._problems.append(DispatchProblem(False, f"{type(error).__name__}: {error}"))
            self._abandoned = self._closing
            if not self._closing:
                self._change.wait(self._retry_s)
            self._retry_s = min(2.0 * self._retry_s, LONGEST_RETRY_S)

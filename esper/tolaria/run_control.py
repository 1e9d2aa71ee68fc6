"""Requests from outside the loop: stop, pause, resume, save. Flags only; the loop polls them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from esper.errors import CheckpointError

# Seconds between two polls of a paused run.
PAUSE_POLL_S = 0.05

CheckpointRequest = Future[str]


class RunControl:
    """Flags that any thread or signal handler may set; the loop polls them after every batch.

    `stop`, `pause` and `resume` take no lock: a signal handler may interrupt the thread that holds it.
    """

    def __init__(self) -> None:
        self.stop_reason = ""
        self._paused = False
        self._requests: deque[CheckpointRequest] = deque()
        self._closed = ""

    def stop(self, reason: str = "stopped") -> None:
        """Request the run to save and end; also ends a pause. The first reason is kept."""
        self.stop_reason = self.stop_reason or reason

    def pause(self) -> bool:
        """Request a pause until `resume` or `stop`. Returns False if it is paused, or must end, already."""
        had_effect = not self._paused and not self.stop_reason
        self._paused = True
        return had_effect

    def resume(self) -> bool:
        """End a pause. False: there was none."""
        had_effect = self.paused
        self._paused = False
        return had_effect

    @property
    def paused(self) -> bool:
        """Whether the run is paused; a stop request ends a pause."""
        return self._paused and not self.stop_reason

    def checkpoint(self) -> CheckpointRequest:
        """Request a checkpoint, also while the run is paused.

        Returns:
            A future of the checkpoint's name, set once it is durable. It raises `CheckpointError` if the
            checkpoint could not be saved.
        """
        request: CheckpointRequest = Future()
        self._requests.append(request)
        if self._closed:
            self.reject(self._closed)
        return request

    @property
    def pending(self) -> bool:
        """Whether a checkpoint request is waiting."""
        return bool(self._requests)

    def take_requests(self) -> list[CheckpointRequest]:
        """Remove and return the checkpoint requests that were neither taken nor cancelled yet."""
        taken: list[CheckpointRequest] = []
        while True:
            try:
                request = self._requests.popleft()
            except IndexError:
                return taken
            if request.set_running_or_notify_cancel():
                taken.append(request)

    def reject(self, reason: str) -> None:
        """Fail all pending and future checkpoint requests with `reason`."""
        self._closed = reason
        for request in self.take_requests():
            request.set_exception(CheckpointError(reason))

    def poll(self, on_poll: Callable[[], None] | None = None) -> bool:
        """Wait while paused. Returns True if the run must end.

        Args:
            on_poll: called at least once, and repeatedly while the run is paused.
        """
        while True:
            if on_poll is not None:
                on_poll()
            if not self.paused:
                return bool(self.stop_reason)
            time.sleep(PAUSE_POLL_S)

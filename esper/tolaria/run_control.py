"""Wishes from outside: stop, pause, resume, save; only flags, looked at by the loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from esper.errors import CheckpointError

# How soon a run that is held notices that it may go on, in seconds.
HELD_POLL_S = 0.05

CheckpointRequest = Future[str]


class RunControl:
    """Flags that any thread or signal handler may set; the loop polls them after every batch.

    `stop`, `pause` and `resume` take no lock: a signal handler may interrupt the very thread that holds it.
    """

    def __init__(self) -> None:
        self.stop_reason = ""
        self._held = False
        self._asked: deque[CheckpointRequest] = deque()
        self._over = ""

    def stop(self, reason: str = "stopped") -> None:
        """Ask the run to save and end; also ends a pause."""
        self.stop_reason = self.stop_reason or reason

    def pause(self) -> None:
        self._held = True

    def resume(self) -> None:
        self._held = False

    @property
    def paused(self) -> bool:
        return self._held and not self.stop_reason

    def checkpoint(self) -> CheckpointRequest:
        """Ask for a checkpoint, also while the run is paused.

        The future yields its name once it is durable, or raises `CheckpointError` where it could not be
        saved.
        """
        wish: CheckpointRequest = Future()
        self._asked.append(wish)
        if self._over:
            self.reject(self._over)
        return wish

    @property
    def pending(self) -> bool:
        """Whether somebody waits for a checkpoint."""
        return bool(self._asked)

    def asked(self) -> list[CheckpointRequest]:
        """Take the wishes for a checkpoint that nobody has taken yet and nobody has cancelled since."""
        taken: list[CheckpointRequest] = []
        while True:
            try:
                wish = self._asked.popleft()
            except IndexError:
                return taken
            if wish.set_running_or_notify_cancel():
                taken.append(wish)

    def reject(self, reason: str) -> None:
        """From now on nothing is saved any more: answer every wish for a checkpoint with `reason`."""
        self._over = reason
        for wish in self.asked():
            wish.set_exception(CheckpointError(reason))

    def poll(self, attend: Callable[[], None] | None = None) -> bool:
        """Wait while paused; True where the run is to end.

        `attend` is called at least once, and over and over while the run is held.
        """
        while True:
            if attend is not None:
                attend()
            if not self.paused:
                return bool(self.stop_reason)
            time.sleep(HELD_POLL_S)

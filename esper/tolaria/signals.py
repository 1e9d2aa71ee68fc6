"""Wishes from outside: stop, pause, resume; only flags, looked at between two steps."""

from __future__ import annotations

import threading


class Wishes:
    """Flags that any thread or signal handler may set; the loop polls them after every step."""

    def __init__(self) -> None:
        self.stop_reason = ""
        self._go = threading.Event()
        self._go.set()

    def stop(self, reason: str = "stopped") -> None:
        """Ask the run to save and end; also ends a pause."""
        self.stop_reason = self.stop_reason or reason
        self._go.set()

    def pause(self) -> None:
        self._go.clear()

    def resume(self) -> None:
        self._go.set()

    @property
    def paused(self) -> bool:
        return not self._go.is_set()

    def poll(self) -> bool:
        """Wait while paused; True where the run is to end."""
        while not self._go.wait(timeout=0.5):
            continue
        return bool(self.stop_reason)

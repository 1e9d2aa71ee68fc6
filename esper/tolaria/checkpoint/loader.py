"""Reads a checkpoint in a thread, so that the caller can stop waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from esper.tolaria.checkpoint.format import Checkpoint

Read = Callable[[], Checkpoint]


class _Task:
    """One read and its result, which nobody else holds: let go of, it can touch nothing any more."""

    def __init__(self, read: Read) -> None:
        self.done = threading.Event()
        self.checkpoint: Checkpoint | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(read,), name="esper-loader", daemon=True)

    def _run(self, read: Read) -> None:
        try:
            self.checkpoint = read()
        except BaseException as error:  # noqa: BLE001 - raised again on the thread that waits
            self.error = error
        self.done.set()


class CheckpointReader:
    """At most one reading thread. It ends with its read and cannot be stopped before."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a read is still running, also one that is no longer waited for."""
        return self._last is not None and self._last.is_alive()

    def start(self, read: Read) -> Callable[[float], Checkpoint | None]:
        """Start a read; what is returned waits for it for so many seconds.

        It gives the checkpoint, or None where there was no time for it, and raises what the read raised.
        """
        assert not self.busy, "one read at a time"
        task = _Task(read)
        self._last = task.thread
        task.thread.start()

        def wait(timeout_s: float) -> Checkpoint | None:
            if not task.done.wait(max(0.0, timeout_s)):
                return None
            if task.error is not None:
                raise task.error
            return task.checkpoint

        return wait

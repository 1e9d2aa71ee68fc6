"""A file whose modification time shows that its owner is alive, also to other machines on the same disk."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

HEARTBEAT_INTERVAL_S = 5.0
# how long after its last beat an owner counts as alive: six beats, because one may be late on a busy machine
HEARTBEAT_TIMEOUT_S = 30.0

_POLL_S = 0.25
# a write that never returns (a disconnected network disk) must not block the end of a run
_STOP_TIMEOUT_S = 5.0


class Heartbeat:
    """Updates the modification time of an open file every `every_s` seconds, in a thread, until `stop`."""

    def __init__(self, descriptor: int, every_s: float = HEARTBEAT_INTERVAL_S) -> None:
        self._descriptor = descriptor
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="esper-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the descriptor may be closed afterwards."""
        self._stopped.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            with suppress(OSError):  # the disk may fail temporarily; the next beat is tried nevertheless
                os.utime(self._descriptor)


def is_recent(path: Path, silent_s: float = HEARTBEAT_TIMEOUT_S) -> bool:
    """Whether the last beat is at most `silent_s` old by this machine's clock; does not wait."""
    try:
        return abs(time.time() - path.stat().st_mtime) < silent_s
    except OSError:
        return False


def is_renewed(path: Path, silent_s: float = HEARTBEAT_TIMEOUT_S) -> bool:
    """Whether the file is still updated; waits until its last beat is `silent_s` old before it returns False.

    The clocks of two machines may differ: only a change of the time counts, and the age is measured with the
    clock of the file system, by a temporary file beside it.
    """
    try:
        last = _changed_ns(path)
        until = time.monotonic() + silent_s - _age_s(path.parent, last)
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(_POLL_S, left_s))
            if _changed_ns(path) != last:
                return True
    except OSError:
        return False
    return False


def _changed_ns(path: Path) -> int:
    with path.open("rb") as file:  # opened each time: otherwise a network file system uses its cache
        return os.fstat(file.fileno()).st_mtime_ns


def _age_s(folder: Path, changed_ns: int) -> float:
    """The age in seconds by the clock of the file system; 0 if the temporary file cannot be created."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.utime(file.fileno())
            return max(0.0, (os.fstat(file.fileno()).st_mtime_ns - changed_ns) / 1e9)
    except OSError:
        return 0.0

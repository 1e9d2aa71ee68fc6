"""A file whose time of change shows that its owner still runs, also to another machine on the same disk."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

HEARTBEAT_INTERVAL_S = 5.0
# how long after its last beat an owner counts as alive: six beats, for one may be late on a busy machine
HEARTBEAT_TIMEOUT_S = 30.0

_LOOK_S = 0.25
# a write that never returns (a network disk that is gone) must not keep a run from ending
_STOP_TIMEOUT_S = 5.0


class Heartbeat:
    """Renews the time of an open file every `every_s` seconds, in a thread, until `stop`."""

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
            with suppress(OSError):  # a disk that fails for a moment; the next beat is tried all the same
                os.utime(self._descriptor)


def is_recent(path: Path, silent_s: float = HEARTBEAT_TIMEOUT_S) -> bool:
    """Whether the last beat is at most `silent_s` old by this machine's clock; only looks."""
    try:
        return abs(time.time() - path.stat().st_mtime) < silent_s
    except OSError:
        return False


def is_renewed(path: Path, silent_s: float = HEARTBEAT_TIMEOUT_S) -> bool:
    """Whether the file is renewed; waits until its last beat is `silent_s` old before it says no.

    Two machines' clocks need not agree: what counts is that the time changes, and the age is measured with
    the clock of the file system, by a file made beside it and removed.
    """
    try:
        last = _changed_ns(path)
        until = time.monotonic() + silent_s - _age_s(path.parent, last)
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left_s))
            if _changed_ns(path) != last:
                return True
    except OSError:
        return False
    return False


def _changed_ns(path: Path) -> int:
    with path.open("rb") as file:  # opened each time: only that makes a network file system ask its server
        return os.fstat(file.fileno()).st_mtime_ns


def _age_s(folder: Path, changed_ns: int) -> float:
    """How long ago that was; 0 where the disk has no room for the file that tells its time."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.utime(file.fileno())
            return max(0.0, (os.fstat(file.fileno()).st_mtime_ns - changed_ns) / 1e9)
    except OSError:
        return 0.0

"""One run to a folder: a lock that dies with its holder, and says who that is (row R20)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from esper.core.forks import closed_in_children
from esper.core.reading import read_object
from esper.errors import ConfigError

LOCK_FILE = "run.lock"

_LIMIT_BYTES = 4096
_LONGEST_COMMAND = 300
# what a file system without locks answers
_WITHOUT = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EOPNOTSUPP}
# the start of a process is read from a clock that may have been set since
_SAME_START_S = 2.0


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that a folder belongs to; `born` is its start in seconds since 1970."""

    pid: int
    host: str
    born: float
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since}: {self.command})"

    @classmethod
    def here(cls) -> Holder:
        """The present process."""
        born = psutil.Process().create_time()
        command = shlex.join(sys.argv)[:_LONGEST_COMMAND]
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), born, now, command)

    @property
    def alive(self) -> bool:
        """Whether that very process runs; one on another host is taken to."""
        if self.host != socket.gethostname():
            return True
        try:
            born = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return False
        return abs(born - self.born) < _SAME_START_S


class FolderLock:
    """Held from `take` to `release`, or to the death of the process; only of this one, not of its children.

    `former` is the holder that died without a release, if there was one. `guarded` is False where the file
    system has no locks: two runs that start at the same moment would then not see each other.
    """

    def __init__(self, path: Path, descriptor: int, former: Holder | None, *, guarded: bool) -> None:
        self.path = path
        self.former = former
        self.guarded = guarded
        self._descriptor = descriptor
        self._pid = os.getpid()
        self._owned = ExitStack()
        self._owned.enter_context(closed_in_children(descriptor))

    @classmethod
    def take(cls, folder: Path) -> FolderLock:
        """Lock a folder that exists.

        Raises `ConfigError` naming the holder where another run has it, this process's own included, and
        where the folder cannot be written to.
        """
        path = folder / LOCK_FILE
        try:
            descriptor, guarded = _locked(path)
        except BlockingIOError:
            raise ConfigError(in_use(folder, holder_of(folder))) from None
        except OSError as error:
            raise ConfigError(f"{folder} cannot be locked: {error.strerror}; expected a folder of its own "
                              "that can be written to") from error  # fmt: skip
        former = holder_of(folder)
        if not guarded and former is not None and former.alive:
            os.close(descriptor)
            raise ConfigError(in_use(folder, former))
        with suppress(OSError):  # on a full disk the lock holds all the same; it cannot say who has it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(Holder.here())).encode(), 0)
        return cls(path, descriptor, former, guarded=guarded)

    def release(self) -> None:
        """Give the folder free and remove the file; a second call, or one in a child, does nothing."""
        if self._descriptor < 0 or self._pid != os.getpid():
            return
        # while it is still locked, so that whoever opened it meanwhile sees that it is gone
        if _is_same(self._descriptor, self.path):
            with suppress(OSError):  # a folder that was removed or made read-only: the lock goes all the same
                self.path.unlink()
        self._owned.close()
        os.close(self._descriptor)
        self._descriptor = -1


def holder_of(folder: Path) -> Holder | None:
    """Who is written into the folder's lock file, alive or not; None where nobody is."""
    try:
        return _parse(read_object(folder / LOCK_FILE, _LIMIT_BYTES))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def live_holder(folder: Path) -> Holder | None:
    """The process that a folder belongs to now. Looks at the process, and so never disturbs the lock."""
    holder = holder_of(folder)
    return holder if holder is not None and holder.alive else None


def _parse(found: Mapping[str, Any]) -> Holder:
    texts = {name: str(found[name]) for name in ("host", "since", "command")}
    return Holder(pid=int(found["pid"]), born=float(found["born"]), **texts)


def in_use(folder: Path, holder: Holder | None) -> str:
    """The sentence for a folder that another run has."""
    who = "another process" if holder is None else str(holder)
    return f"{folder} is in use by {who}; expected a folder that no other run writes to"


def _locked(path: Path) -> tuple[int, bool]:
    """An open descriptor of the file, locked, and whether that could be; `BlockingIOError` if it is not free.

    `flock`, not `lockf`: the latter is lost as soon as anybody in the process closes the file.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _WITHOUT:
                return descriptor, False
            os.close(descriptor)
            raise
        if _is_same(descriptor, path):
            return descriptor, True
        os.close(descriptor)  # its holder has just removed it: another may have made a new one


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False

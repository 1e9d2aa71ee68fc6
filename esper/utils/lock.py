"""One run to a folder: a lock that dies with its holder, and says who that is.

A folder is free when the kernel says so, whatever host and process its lock file names: a container that
starts again has another host name. Only where the kernel cannot know, the heartbeat in the lock file decides:
on a file system without working locks, and where the holder ran on another machine, whose locks a network
file system may or may not pass on. A holder that beats is alive, one that has been silent for 30 s is dead.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from esper.errors import ConfigError
from esper.utils.bounded_read import read_object
from esper.utils.heartbeat import HEARTBEAT_TIMEOUT_S, Heartbeat, is_recent, is_renewed

_open: set[int] = set()


@contextmanager
def closed_in_children(descriptor: int) -> Iterator[None]:
    """Within the block, a child of a fork has the null device in place of this file descriptor.

    Workers of a DataLoader are forked, and may live on for seconds after their parent was killed.
    """
    _open.add(descriptor)
    try:
        yield
    finally:
        _open.discard(descriptor)


def _replace_all() -> None:
    # replaced, not closed: whoever closes it later in the child must not meet another file of that number
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _open:
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    _open.clear()


os.register_at_fork(after_in_child=_replace_all)


LOCK_FILE = "run.lock"

_LIMIT_BYTES = 4096
_LONGEST_COMMAND = 300
# what a file system without locks answers
_NO_LOCKS_ERRNOS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EOPNOTSUPP}
# the start of a process is read from a clock that may have been set since
_SAME_START_S = 2.0
# A process that takes a lock writes its name a moment later; it is waited for so long, at most.
_NAMING_S = 1.0
_NAMING_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that a folder belongs to; `born` is its start in seconds since 1970.

    `machine` and `numbers` say which kernel and which namespace of process numbers it ran in, whatever that
    host was called; empty where the system does not tell, and in lock files of earlier versions.
    """

    pid: int
    host: str
    born: float
    since: str
    command: str
    machine: str = ""
    numbers: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since}: {self.command})"

    @classmethod
    def here(cls) -> Holder:
        """The present process."""
        born = psutil.Process().create_time()
        command = shlex.join(sys.argv)[:_LONGEST_COMMAND]
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), born, now, command, _machine(), _pid_namespace())

    @property
    def same_machine(self) -> bool:
        """Whether it ran under this kernel, which then knows of its locks."""
        return self.machine == _machine() if self.machine else self.host == socket.gethostname()

    @property
    def local(self) -> bool:
        """Whether its process number can be looked up here."""
        return self.same_machine and (not self.numbers or self.numbers == _pid_namespace())

    @property
    def alive(self) -> bool:
        """Whether that very process runs; one that cannot be looked up here is taken to."""
        if not self.local:
            return True
        try:
            born = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return False
        return abs(born - self.born) < _SAME_START_S


class FolderLock:
    """Held from `take` to `release`, or to the death of the process; only of this one, not of its children.

    `former` is the holder that died without a release, if there was one. `guarded` is False where the file
    system has no working locks: two runs that start at the same moment would then not see each other.
    """

    def __init__(self, path: Path, descriptor: int, former: Holder | None, *, guarded: bool) -> None:
        self.path = path
        self.former = former
        self.guarded = guarded
        self._descriptor = descriptor
        self._pid = os.getpid()
        self._owned = ExitStack()
        self._owned.enter_context(closed_in_children(descriptor))
        self._owned.callback(Heartbeat(descriptor).stop)

    @property
    def taken_over(self) -> str:
        """What is said of a holder that died: who it was and how that is known; else empty."""
        if self.former is None:
            return ""
        message = f"{self.former} ended without giving this folder free"
        if self.former.local:
            return message
        why = "the lock is free" if self.guarded else "the file system has no working locks"
        if not (self.guarded and self.former.same_machine):
            why += f", and {LOCK_FILE} has not been renewed for {HEARTBEAT_TIMEOUT_S:g} s"
        return f"{message}, as far as {socket.gethostname()} can tell: {why}"

    @classmethod
    def take(cls, folder: Path, *, silent_s: float = HEARTBEAT_TIMEOUT_S) -> FolderLock:
        """Lock a folder that exists; `silent_s` is how long a holder elsewhere is waited for.

        Raises `ConfigError` naming the holder where another run has it, this process's own included, and
        where the folder cannot be written to.
        """
        path = folder / LOCK_FILE
        try:
            descriptor, guarded = _locked(path)
        except BlockingIOError:
            raise ConfigError(in_use_message(folder, _present_holder(folder))) from None
        except OSError as error:
            raise ConfigError(f"{folder} cannot be locked: {error.strerror}; expected a folder of its own "
                              "that can be written to") from error  # fmt: skip
        try:
            former = read_holder(folder)
            if former is not None and _still_runs(former, path, guarded=guarded, silent_s=silent_s):
                raise ConfigError(in_use_message(folder, former))
        except BaseException:
            os.close(descriptor)
            raise
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


def read_holder(folder: Path) -> Holder | None:
    """Who is written into the folder's lock file, alive or not; None where nobody is."""
    try:
        return _parse(read_object(folder / LOCK_FILE, _LIMIT_BYTES))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def live_holder(folder: Path) -> Holder | None:
    """The process that a folder belongs to now, as far as can be seen without disturbing the lock.

    One that cannot be looked up here (another machine's, another container's) is alive by its heartbeat.
    """
    holder = read_holder(folder)
    if holder is None:
        return None
    alive = holder.alive if holder.local else is_recent(folder / LOCK_FILE)
    return holder if alive else None


def _present_holder(folder: Path) -> Holder | None:
    """Who holds a lock that is taken; one that has just got it is given time to write its name."""
    until = time.monotonic() + _NAMING_S
    while (holder := live_holder(folder)) is None and time.monotonic() < until:
        time.sleep(_NAMING_POLL_S)
    return holder or read_holder(folder)


def _parse(found: Mapping[str, Any]) -> Holder:
    texts = {name: str(found[name]) for name in ("host", "since", "command")}
    texts |= {name: str(found.get(name, "")) for name in ("machine", "numbers")}
    return Holder(pid=int(found["pid"]), born=float(found["born"]), **texts)


def in_use_message(folder: Path, holder: Holder | None) -> str:
    """The sentence for a folder that another run has."""
    who = "another process" if holder is None else str(holder)
    message = f"{folder} is in use by {who}; expected a folder that no other run writes to"
    if holder is None or holder.local:
        return message
    return f"{message}. If that process is surely dead, remove {folder / LOCK_FILE}"


def _still_runs(former: Holder, path: Path, *, guarded: bool, silent_s: float) -> bool:
    """Whether the holder of a lock that could be had is alive all the same."""
    if guarded and former.same_machine:
        return False  # one kernel holds both locks: it would not have given the second
    return former.alive if former.local else is_renewed(path, silent_s)


def _machine() -> str:
    """Which kernel runs here, since its last start; a container has that of its host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Which namespace of process numbers this is: a container has one of its own."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def _locked(path: Path) -> tuple[int, bool]:
    """An open descriptor of the file, locked, and whether that could be; `BlockingIOError` if it is not free.

    `flock`, not `lockf`: the latter is lost as soon as anybody in the process closes the file.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS_ERRNOS:
                return descriptor, False
            os.close(descriptor)
            raise
        if _is_same(descriptor, path):
            return descriptor, _is_exclusive(path)
        os.close(descriptor)  # its holder has just removed it: another may have made a new one


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _is_exclusive(path: Path) -> bool:
    """Whether the lock that was just taken keeps a second one out: some file systems only pretend to."""
    try:
        second = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(second)
    return False

"""A lock file for a run folder, released by the kernel when its holder dies, that names the holder.

The kernel's lock decides whether a folder is free, not the host and process in the lock file: a restarted
container has another host name. The heartbeat of the lock file decides only if the kernel cannot know: on a
file system without working locks, and if the holder ran on another machine, whose locks a network file system
may not support. A holder without a heartbeat for 30 s is dead.
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
    """Within the block, forked children have the null device in place of this file descriptor.

    DataLoader workers are forked and may outlive a killed parent by seconds; with an inherited descriptor
    they would keep its lock or socket.
    """
    _open.add(descriptor)
    try:
        yield
    finally:
        _open.discard(descriptor)


def _replace_all() -> None:
    # replaced instead of closed: code of the child that closes it must not close a new file of that number
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _open:
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    _open.clear()


os.register_at_fork(after_in_child=_replace_all)


LOCK_FILE = "run.lock"

_LIMIT_BYTES = 4096
_LONGEST_COMMAND = 300
# errors of a file system without locks
_NO_LOCKS_ERRNOS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EOPNOTSUPP}
# tolerance for the start time of a process: the clock may have been adjusted since
_SAME_START_S = 2.0
# A process writes its name into the file shortly after it has locked it; the longest time to wait for that.
_NAMING_S = 1.0
_NAMING_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that has locked a folder.

    Attributes:
        pid: its process id.
        host: the host name.
        born: its start in seconds since 1970.
        since: when it locked the folder, for messages.
        command: its command line.
        machine: the boot id of the kernel; empty if unknown, and in lock files of earlier versions.
        numbers: the namespace of process ids; empty if unknown, and in lock files of earlier versions.
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
        """Whether it ran under this kernel, which then knows its locks."""
        return self.machine == _machine() if self.machine else self.host == socket.gethostname()

    @property
    def local(self) -> bool:
        """Whether its process id is valid in this process."""
        return self.same_machine and (not self.numbers or self.numbers == _pid_namespace())

    @property
    def alive(self) -> bool:
        """Whether this process still runs; True if that cannot be determined here."""
        if not self.local:
            return True
        try:
            born = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return False
        return abs(born - self.born) < _SAME_START_S


class FolderLock:
    """A lock that is held from `take` to `release`, or to the end of the process, but not by its children.

    Attributes:
        path: the lock file.
        former: the holder that ended without releasing the lock, if any.
        guarded: False if the file system has no working locks; two runs that start at the same moment would
            then not detect each other.
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
        """The message about a holder that ended without releasing the lock; empty if there is none."""
        if self.former is None:
            return ""
        message = f"{self.former} ended without releasing this folder"
        if self.former.local:
            return message
        why = "the lock is free" if self.guarded else "the file system has no working locks"
        if not (self.guarded and self.former.same_machine):
            why += f", and {LOCK_FILE} has not been renewed for {HEARTBEAT_TIMEOUT_S:g} s"
        return f"{message}, as far as {socket.gethostname()} can tell: {why}"

    @classmethod
    def take(cls, folder: Path, *, silent_s: float = HEARTBEAT_TIMEOUT_S) -> FolderLock:
        """Lock an existing folder.

        Args:
            folder: the folder of a run.
            silent_s: how long to wait for the heartbeat of a holder on another machine.

        Raises:
            ConfigError: another run, also one of this process, has locked the folder (the message names it),
                or it cannot be written to.
        """
        path = folder / LOCK_FILE
        try:
            descriptor, guarded = _locked(path)
        except BlockingIOError:
            raise ConfigError(in_use_message(folder, _present_holder(folder))) from None
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be locked: {error.strerror}; expected a writable folder for this run only"
            ) from error
        try:
            former = read_holder(folder)
            if former is not None and _still_runs(former, path, guarded=guarded, silent_s=silent_s):
                raise ConfigError(in_use_message(folder, former))
        except BaseException:
            os.close(descriptor)
            raise
        with suppress(OSError):  # on a full disk the lock is valid, but does not name its holder
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(Holder.here())).encode(), 0)
        return cls(path, descriptor, former, guarded=guarded)

    def release(self) -> None:
        """Unlock the folder and remove the file; a second call, or one in a child process, does nothing."""
        if self._descriptor < 0 or self._pid != os.getpid():
            return
        # before unlocking, so that a process that has opened it meanwhile detects its removal
        if _is_same(self._descriptor, self.path):
            with suppress(OSError):  # the folder was removed or made read-only: it is unlocked nevertheless
                self.path.unlink()
        self._owned.close()
        os.close(self._descriptor)
        self._descriptor = -1


def read_holder(folder: Path) -> Holder | None:
    """The holder that the folder's lock file names, alive or not; None if it names none."""
    try:
        return _parse(read_object(folder / LOCK_FILE, _LIMIT_BYTES))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def live_holder(folder: Path) -> Holder | None:
    """The living process that has locked a folder, determined without taking the lock.

    For a process of another machine or container the heartbeat decides.
    """
    holder = read_holder(folder)
    if holder is None:
        return None
    alive = holder.alive if holder.local else is_recent(folder / LOCK_FILE)
    return holder if alive else None


def _present_holder(folder: Path) -> Holder | None:
    """The holder of a lock that is taken; waits a moment for one that has not written its name yet."""
    until = time.monotonic() + _NAMING_S
    while (holder := live_holder(folder)) is None and time.monotonic() < until:
        time.sleep(_NAMING_POLL_S)
    return holder or read_holder(folder)


def _parse(found: Mapping[str, Any]) -> Holder:
    texts = {name: str(found[name]) for name in ("host", "since", "command")}
    texts |= {name: str(found.get(name, "")) for name in ("machine", "numbers")}
    return Holder(pid=int(found["pid"]), born=float(found["born"]), **texts)


def in_use_message(folder: Path, holder: Holder | None) -> str:
    """The message for a folder that another run has locked."""
    who = "another process" if holder is None else str(holder)
    message = f"{folder} is in use by {who}; expected a folder that no other run writes to"
    if holder is None or holder.local:
        return message
    return f"{message}. If that process has certainly ended, remove {folder / LOCK_FILE}"


def _still_runs(former: Holder, path: Path, *, guarded: bool, silent_s: float) -> bool:
    """Whether the former holder is alive although its lock could be taken."""
    if guarded and former.same_machine:
        return False  # one kernel manages both locks: it would have refused the second
    return former.alive if former.local else is_renewed(path, silent_s)


def _machine() -> str:
    """The boot id of the kernel; a container has that of its host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """The namespace of process ids; each container has another one."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def _locked(path: Path) -> tuple[int, bool]:
    """A locked descriptor of the file, and whether locks work; raises `BlockingIOError` if another has it.

    `flock`, not `lockf`: the latter is released as soon as any code of the process closes the file.
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
        os.close(descriptor)  # its holder has just removed it: another process may have created a new one


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _is_exclusive(path: Path) -> bool:
    """Whether the lock excludes a second one: some file systems report success without locking."""
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

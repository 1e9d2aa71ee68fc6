"""Broken builds for R22: a host name that decides, and a lock that does not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from faults.harness.firing import broken, fire, replaced

from esper import train
from esper.utils import lock
from esper.utils.lock import FolderLock, Holder, read_holder


def name_decides_at_the_check() -> AbstractContextManager[None]:
    """A holder on a host of another name counts as alive before the lock is even tried."""

    def in_use(folder: Path) -> list[str]:
        holder = read_holder(folder)
        strange = holder is not None and holder.host != socket.gethostname()
        return [lock.in_use_message(folder, holder)] if strange else []

    return broken(train, "_in_use", in_use)


def name_decides_at_the_lock() -> AbstractContextManager[None]:
    """The lock was free, and the host of another name is believed to hold it all the same."""
    return broken(lock, "_still_runs", lambda former, *_, **__: former.host != socket.gethostname())


@contextmanager
def lock_for_each_host() -> Iterator[None]:
    """Each host has a lock file of its own."""
    locked = lock._locked

    def own(path: Path) -> tuple[int, bool]:
        return locked(path.with_name(f"{socket.gethostname()}-{path.name}"))

    with broken(lock, "_locked", own), replaced(train, "live_holder", lambda _: None):
        yield


@contextmanager
def lock_always_free() -> Iterator[None]:
    """No lock is ever refused."""

    def taken(path: Path) -> tuple[int, bool]:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), True

    with broken(lock, "_locked", taken), replaced(train, "live_holder", lambda _: None):
        yield


def taken_over_without_a_word() -> AbstractContextManager[None]:
    """The former holder is not named."""

    def silent(_: FolderLock) -> str:
        fire()
        return "the folder was locked"

    return replaced(FolderLock, "taken_over", property(silent))  # type: ignore[arg-type]


def name_written_of_the_reader() -> AbstractContextManager[None]:
    """A holder is named with the host of the process that reads the lock."""

    def here(holder: Any) -> str:
        return f"process {holder.pid} on {socket.gethostname()} (since {holder.since}: {holder.command})"

    return broken(Holder, "__str__", here)

"""Broken builds for R20: two runs that get one folder, or a folder that no run gets any more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from faults.harness.firing import broken

from esper import train
from esper.utils import lock
from esper.utils.lock import FolderLock, read_holder


@contextmanager
def lock_always_succeeds() -> Iterator[None]:
    """No lock is ever refused."""

    def taken(path: Path) -> tuple[int, bool]:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), True

    with broken(lock, "_locked", taken), broken(train, "live_holder", lambda _: None):
        yield


def released_at_once() -> AbstractContextManager[None]:
    """The lock is given back as soon as it was taken, and its note removed."""
    take = FolderLock.take

    def taken(folder: Path) -> FolderLock:
        lock = take(folder)
        lock.release()
        return lock

    return broken(FolderLock, "take", taken)


def holder_not_named() -> AbstractContextManager[None]:
    """A folder in use is refused without a word about whose it is."""
    return broken(train, "in_use_message", lambda folder, _: f"{folder} is in use; expected another folder")


def refusal_is_a_success() -> AbstractContextManager[None]:
    """The second run ends as if all had been done."""
    main = train._main
    return broken(train, "_main", lambda *arguments: min(main(*arguments), 0))


def dead_holder_kept() -> AbstractContextManager[None]:
    """A folder stays locked by a process that is dead."""
    return broken(train, "live_holder", read_holder)

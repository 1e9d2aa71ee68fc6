"""Broken builds for R20: two runs that get one folder, or a folder that nobody gets any more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.harness.firing import broken

from esper import train
from esper.core import lock


@contextmanager
def lock_always_succeeds() -> Iterator[None]:
    """No lock is ever refused."""

    def taken(path: Path) -> tuple[int, bool]:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), True

    with broken(lock, "_locked", taken), broken(train, "live_holder", lambda _: None):
        yield

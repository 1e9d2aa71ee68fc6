"""Broken builds for R20: two runs that get one folder, or a folder that nobody gets any more."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from faults.harness.firing import broken

from esper import train


@contextmanager
def lock_always_succeeds() -> Iterator[None]:
    """No lock is ever refused."""
    with broken(fcntl, "flock", lambda *_: None), broken(train, "live_holder", lambda _: None):
        yield

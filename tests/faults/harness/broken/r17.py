"""Broken builds for R17: a malformed request to resume is not refused, or not before anything was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from faults.harness.firing import broken

from esper import resume, train
from esper.cli.plan import make_plan


@contextmanager
def unchecked() -> Iterator[None]:
    """What is named to resume from is not looked at before it is used."""
    with broken(train, "_checked", make_plan), broken(resume, "_refuse_changes", lambda *_: None):
        yield

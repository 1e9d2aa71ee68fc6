"""Broken builds for R24: a failed save that nobody hears of, or that is never made up for."""

from __future__ import annotations

from contextlib import AbstractContextManager

from faults.harness.firing import broken

from esper import ending, resume


def silent() -> AbstractContextManager[None]:
    """Nobody looks whether the end of the run is on the disk."""
    return broken(ending, "missing", lambda *_: [])


def finished_for_good() -> AbstractContextManager[None]:
    """A summary alone makes a run a finished one."""
    return broken(resume, "_finished", lambda config, run_dir, *_: resume._summary(run_dir) or None)

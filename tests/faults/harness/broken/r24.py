"""Broken builds for R24: a failed save that is not reported, or that is never repeated."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from faults.harness.firing import broken

from esper.runs import finalize, load, resume
from esper.runs.outputs import BestEffortWriter
from esper.tolaria.loop import TrainingLoop


def silent() -> AbstractContextManager[None]:
    """Nobody looks whether the end of the run is on the disk."""
    return broken(finalize, "missing", lambda *_: [])


def finished_for_good() -> AbstractContextManager[None]:
    """A summary alone makes a run a finished one."""
    return broken(resume, "_finished", lambda config, run_dir, *_: resume._summary(run_dir) or None)


def exit_code_alone() -> AbstractContextManager[None]:
    """The exit code is right, and summary.json is that of a run that saved all."""
    write = finalize.write_summary

    def without(path: Path, summary: Mapping[str, Any]) -> None:
        write(path, {name: value for name, value in summary.items() if name != "unsaved"})

    return broken(finalize, "write_summary", without)


def summary_alone() -> AbstractContextManager[None]:
    """The summary is right, and the exit code is that of a run that saved all."""
    return broken(BestEffortWriter, "check", lambda *_: None)


def reader_not_warned() -> AbstractContextManager[None]:
    """`esper.load` gives whatever checkpoint there is, without a word."""
    return broken(load, "why_behind", lambda *_: "")


def model_not_owed() -> AbstractContextManager[None]:
    """Where the last checkpoint is there a run counts as finished."""
    return broken(resume, "what_is_owed", lambda *_: [])


def goes_on_from_the_end() -> AbstractContextManager[None]:
    """What is resumed is taken for a run that has no epoch left to train."""

    def over(run: TrainingLoop) -> bool:
        run.progress.stopped_by = run.progress.stopped_by or "max_epochs" * _resumed(run)
        return finished(run)

    finished = TrainingLoop._finished
    return broken(TrainingLoop, "_finished", over)


def _resumed(run: TrainingLoop) -> bool:
    return run.progress.epoch > 0 and run.config.checkpoint.resume_from_checkpoint == "auto"

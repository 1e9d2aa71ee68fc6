"""Runs one checked configuration to its exit code, as `esper-train` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.runs.checked_run import CheckedRun
from esper.runs.context import RunContext
from esper.runs.extensions import trainer_class
from esper.utils.lock import FolderLock
from esper.utils.os_signals import exit_code, stop_on_signals
from esper.utils.stdout import print_flushed


def run_job(
    checked: CheckedRun,
    *,
    overrides: Sequence[str] = (),
    number: int | None = None,
    sweep_dir: Path | None = None,
    lock: FolderLock | None = None,
) -> int:
    """Instantiate the trainer that the configuration names, fit, test; returns the exit code.

    Args:
        checked: The configuration and its folder.
        overrides: What sets the job apart in its sweep.
        number: The job's number in its sweep.
        sweep_dir: The sweep's folder; None if there is no sweep.
        lock: The folder's lock if the caller holds it.
    """
    group = None if sweep_dir is None else f"{sweep_dir.parent.name}_{sweep_dir.name}"
    name = None if number is None else " ".join([str(number), *overrides])
    context = RunContext(group=group, name=name, lock=lock, checked=checked)
    trainer = trainer_class(checked.config)(checked.config, run_dir=checked.run_dir, context=context)
    if checked.config.dry_run:
        print_flushed(trainer.dry_run())
        return 0
    with stop_on_signals(trainer.stop, starting=lambda: trainer.job.run is None):
        summary = trainer.run_training()
    return exit_code(summary["stopped_by"])

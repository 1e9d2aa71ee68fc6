"""What a fork server does once, so that not every process of it has to: parsers, caches, and no picture."""

from __future__ import annotations

import tempfile
from pathlib import Path

from faults.harness.runs import command

from esper.cli.flags import Flags
from esper.cli.plan import make_plan
from esper.runs import finalize


def composed() -> None:
    """Compose the growing run's configuration: the tables of Hydra's parser are filled as it reads."""
    with tempfile.TemporaryDirectory() as folder:
        make_plan(Flags(command(Path(folder))))


def undrawn() -> None:
    """Let no process draw its run.png, which takes as long as its training and which no row looks at.

    A process with an interpreter of its own (`fresh`) draws it.
    """
    finalize.plot_run = lambda run_dir: run_dir / "run.png"

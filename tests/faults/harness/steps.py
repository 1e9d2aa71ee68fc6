"""Notes when each step of a run began, in a file of its process, so that a late stop can be seen."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.harness.firing import replaced

from esper.tolaria.training_step import Stepper

NOTED = "faults.harness.steps:noted"


@contextmanager
def noted() -> Iterator[None]:
    """Within the block each step first adds the time to a file in the present folder."""
    step = Stepper.step
    descriptor = os.open(file_of(os.getpid(), Path.cwd()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noting(stepper: Stepper, *arguments: Any, **options: Any) -> Any:
        os.write(descriptor, f"{time.time()}\n".encode())
        return step(stepper, *arguments, **options)

    with replaced(Stepper, "step", noting):
        yield


def begun_after(pid: int, folder: Path, at_s: float) -> int:
    """How many steps the process began after that time."""
    path = file_of(pid, folder)
    return sum(float(line) > at_s for line in path.read_text().splitlines()) if path.exists() else 0


def file_of(pid: int, folder: Path) -> Path:
    return folder / f"{pid}.steps"

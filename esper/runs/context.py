"""What surrounds a run: where it prints, which sweep it belongs to, who holds its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from esper.utils.lock import FolderLock

if TYPE_CHECKING:
    from esper.runs.checked_run import CheckedRun


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run gets from its caller besides configuration and objects.

    Args:
        console: Where the progress is printed; None is standard output.
        group: The sweep that the run belongs to, for loggers.
        name: The run's name within its group, for loggers.
        lock: The folder's lock if the caller holds it and releases it; None: the run takes it.
        checked: The result of the check if the caller has made it.
    """

    console: Console | None = None
    group: str | None = None
    name: str | None = None
    lock: FolderLock | None = None
    checked: CheckedRun | None = None

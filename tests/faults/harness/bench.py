"""What the rows of the battery share."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from faults.harness.lives import Server
from faults.harness.revival import Moment, Whole, interrupted, never_stopped, terminated


class Bench:
    """What rows share, made when it is first asked for: a fork server, and a run that was never stopped."""

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        self.folder = folder
        self._owned = owned
        self._count = 0

    @cached_property
    def server(self) -> Server:
        setups = ("faults.harness.saving:prepared", "faults.harness.hostile:prepared")
        return self._owned.enter_context(Server(self.folder / "server", *setups))

    @cached_property
    def whole(self) -> Whole:
        return never_stopped(self.folder / "never-stopped")

    @cached_property
    def stopped(self) -> Path:
        """A run that was stopped in the midst of a blend."""
        run = self.folder / "stopped"
        interrupted(self.server, run, Moment("blending", 0.05), terminated)
        return run

    def fresh(self) -> Path:
        """A folder of its own."""
        self._count += 1
        path = self.folder / f"row-{self._count}"
        path.mkdir()
        return path

    def clear(self) -> None:
        """Remove what rows have left; what they found is in their tallies."""
        for path in self.folder.glob("row-*"):
            shutil.rmtree(path)

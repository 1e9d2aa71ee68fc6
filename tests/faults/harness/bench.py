"""What the rows of the battery share."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from unittest import mock

from faults.harness.firing import VARIABLE
from faults.harness.lives import Server
from faults.harness.revival import Moment, Whole, interrupted, never_stopped, terminated


class Bench:
    """What rows share, made when it is first asked for: a fork server, and a run that was never stopped."""

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        self.folder = folder
        self._owned = owned
        self._count = 0
        self._mark = folder / "fired"
        # before the server starts: its children are to inherit it
        owned.enter_context(mock.patch.dict(os.environ, {VARIABLE: str(self._mark)}))

    @property
    def fired(self) -> bool:
        """Whether the patch of a broken build was called since `reset_fired`."""
        return self._mark.exists()

    def reset_fired(self) -> None:
        self._mark.unlink(missing_ok=True)

    @cached_property
    def server(self) -> Server:
        setups = ("saving:prepared", "hostile:prepared", "warm:composed", "warm:undrawn")
        called = [f"faults.harness.{setup}" for setup in setups]
        return self._owned.enter_context(Server(self.folder / "server", *called))

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

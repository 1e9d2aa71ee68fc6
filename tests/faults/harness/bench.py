"""What the rows of the fault suite share."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from unittest import mock

from faults.harness.firing import VARIABLE
from faults.harness.grown import grown_run
from faults.harness.processes import Server
from faults.harness.revival import Moment, Whole, interrupted, never_stopped, terminated, whole
from faults.harness.shared import Shared
from faults.harness.undone import never_killed


class Bench:
    """What rows share, made when it is first asked for: a fork server, and runs to compare with.

    The runs are in `shared`, a folder that several processes may have in common.
    """

    def __init__(self, folder: Path, owned: ExitStack, shared: Path | None = None) -> None:
        self.folder = folder
        self._shared = Shared(shared or folder / "shared")
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
        return whole(self._shared.folder("never-stopped", never_stopped))

    @cached_property
    def stopped(self) -> Path:
        """A run that was stopped in the midst of a blend."""
        moment = Moment("blending", 0.05)
        return self._shared.folder("stopped", lambda run: interrupted(self.server, run, moment, terminated))

    @cached_property
    def undone(self) -> Path:
        """The run of R21, never killed."""
        return self._shared.folder("undone", lambda run: never_killed(self.server, run))

    @cached_property
    def grown(self) -> Path:
        """The checkpoints of a small run that has grown."""
        return self._shared.folder("grown", grown_run) / "checkpoints"

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

"""Runs that all processes of a test run compare with: the first process makes one, the others wait."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


class Shared:
    """Folders below `root`, each of them made once by all processes that share the root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def folder(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the folder `name`, to be read only; `make` is called with its path where it is not there."""
        path, done = self.root / name, self.root / f"{name}.done"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                make(path)
                done.touch()
        return path

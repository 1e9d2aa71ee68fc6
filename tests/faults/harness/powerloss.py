"""A power failure: what was not brought to the disk by a system call is gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.harness.firing import replaced


@dataclass
class Platter:
    """What is durable below a folder: the content of files and the entries of folders, by inode.

    What was there at the start is. Afterwards a file's content is what it was at its last `os.fsync`, and a
    folder's entries are those of its last one; a file that was never synced is empty.
    """

    root: Path
    contents: dict[int, bytes] = field(default_factory=dict)
    entries: dict[int, dict[str, tuple[int, bool]]] = field(default_factory=dict)
    syncs: int = 0

    def __post_init__(self) -> None:
        for folder, _, files in os.walk(self.root):
            self._note(Path(folder))
            for name in files:
                self._note(Path(folder, name))

    @contextmanager
    def spinning(self) -> Iterator[None]:
        """Within the block every `os.fsync` makes something durable."""
        fsync = os.fsync

        def noting(descriptor: int) -> None:
            fsync(descriptor)
            self.syncs += 1
            self._note(Path(f"/proc/self/fd/{descriptor}").resolve())

        with replaced(os, "fsync", noting):
            yield

    def after_failure(self, target: Path) -> Path:
        """Write what is left after a power failure to a new folder."""
        self._write(self.root.stat().st_ino, target)
        return target

    def _note(self, path: Path) -> None:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            listed = {item.name: (item.inode(), item.is_dir()) for item in os.scandir(path)}
            self.entries[found.st_ino] = listed
        else:
            self.contents[found.st_ino] = path.read_bytes()

    def _write(self, folder: int, target: Path) -> None:
        target.mkdir(parents=True)
        for name, (inode, is_folder) in self.entries.get(folder, {}).items():
            if is_folder:
                self._write(inode, target / name)
            else:
                (target / name).write_bytes(self.contents.get(inode, b""))

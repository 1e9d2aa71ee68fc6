"""File operations that fail at a given call, and record all calls."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from esper.utils.files import Content, Files


class Disk(Files):
    """Records every call; the k-th fails with `code`, a write after half of its bytes."""

    def __init__(self, fail_at: int = 0, code: int = errno.ENOSPC) -> None:
        self.calls: list[tuple[str, Path]] = []
        self.fail_at, self.code = fail_at, code
        self.fired = False

    def mkdir(self, path: Path) -> None:
        self._call("mkdir", path)
        super().mkdir(path)

    def write(self, path: Path, content: Content) -> None:
        self._call("write", path)
        super().write(path, content)

    def fsync(self, path: Path) -> None:
        self._call("fsync", path)
        super().fsync(path)

    def rename(self, old: Path, new: Path) -> None:
        self._call("rename", new)
        super().rename(old, new)

    def fsync_dir(self, path: Path) -> None:
        self._call("fsync_dir", path)
        super().fsync_dir(path)

    def _call(self, kind: str, path: Path) -> None:
        self.calls.append((kind, path))
        if len(self.calls) == self.fail_at:
            self.fired = True
            if kind == "write":
                path.write_bytes(b"half")
            raise OSError(self.code, os.strerror(self.code))

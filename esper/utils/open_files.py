"""Files that are opened once and read by their descriptor, also if they are renamed or removed meanwhile.

A run removes its old checkpoints and replaces its files by renaming. Opening a path twice may give two files,
or none; open descriptors give consistent content.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from esper.errors import CheckpointError

# where an open descriptor has a path, for libraries that accept paths only
_OPEN_FILES = next((folder for folder in (Path("/proc/self/fd"), Path("/dev/fd")) if folder.is_dir()), None)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open file; `path` is where it was opened, for messages."""

    path: Path
    file: BufferedReader

    @property
    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    @property
    def readable_path(self) -> Path:
        """A path of the open file, also after it was removed or replaced."""
        return self.path if _OPEN_FILES is None else _OPEN_FILES / str(self.file.fileno())

    def read(self, limit_bytes: int) -> bytes:
        """The content. Raises `CheckpointError` if it is longer than `limit_bytes` or cannot be read."""
        if self.size > limit_bytes:
            raise CheckpointError(
                f"{self.path} is {self.size} bytes long; at most {limit_bytes} are expected"
            )
        try:
            self.file.seek(0)
            return self.file.read(limit_bytes)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}") from error


class OpenFolder:
    """An open folder; files opened through it stay open until it is closed."""

    def __init__(self, path: Path, owned: ExitStack) -> None:
        self.path = path
        self._owned = owned
        self._files: dict[str, OpenFile] = {}
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from error
        owned.callback(os.close, self._handle)

    def names(self) -> set[str]:
        """The names of all its entries. Raises `CheckpointError`."""
        try:
            return set(os.listdir(self._handle))  # noqa: PTH208 - by its handle, not by its name
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be listed: {error}") from error

    def file(self, name: str) -> OpenFile:
        """A plain file in the folder. Raises `CheckpointError` if it is missing or not a plain file."""
        if name not in self._files:
            try:
                self._files[name] = self._opened(name)
            except FileNotFoundError as error:
                raise CheckpointError(f"{self.path}: {name} is missing") from error
            except OSError as error:
                raise CheckpointError(f"{self.path / name} cannot be read: {error}") from error
        return self._files[name]

    def _opened(self, name: str) -> OpenFile:
        status = os.stat(name, dir_fd=self._handle, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{self.path}: {name} is not a plain file but a link, folder or device")
        # if it was replaced since, a link is not followed, and a FIFO does not block
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=self._handle)
        return OpenFile(self.path / name, self._owned.enter_context(os.fdopen(descriptor, "rb")))


def plain_size(path: Path) -> int:
    """The size in bytes of a plain file. Raises `CheckpointError` for links, folders and devices."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent}: {path.name} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path.parent}: {path.name} is not a plain file but a link, folder or device")
    return status.st_size


@contextmanager
def opened_folder(folder: Path | OpenFolder) -> Iterator[OpenFolder]:
    """Open a folder within the block; one that is open already stays open. Raises `CheckpointError`."""
    if isinstance(folder, OpenFolder):
        yield folder
        return
    with ExitStack() as owned:
        yield OpenFolder(folder, owned)


@contextmanager
def opened_file(path: Path | OpenFile) -> Iterator[OpenFile]:
    """Open a file within the block, following links. Raises `CheckpointError`."""
    if isinstance(path, OpenFile):
        yield path
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CheckpointError(f"{path} cannot be read: {os.strerror(errno.EISDIR)} or a device")
        yield OpenFile(path, file)

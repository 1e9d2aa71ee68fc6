"""Broken builds for R7: the calls that make a save durable in another order, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from faults.harness.firing import broken

from esper.utils import files
from esper.utils.files import Content, Files
from esper.utils.manifest import MANIFEST


@contextmanager
def synced_after_rename() -> Iterator[None]:
    """Files are renamed first, and on the disk only then."""
    put_in_place = files._put_in_place

    def put_and_sync(temp: Path, final: Path, io: Files) -> None:
        put_in_place(temp, final, io)
        for path in final.iterdir():
            io.fsync(path)

    write = lambda path, content, io: io.write(path, content)  # noqa: E731
    with broken(files, "_write_durably", write), broken(files, "_put_in_place", put_and_sync):
        yield


def fsync_removed() -> AbstractContextManager[None]:
    """Files are written, and never brought to the disk."""
    return broken(Files, "fsync", lambda *_: None)


def folder_not_synced() -> AbstractContextManager[None]:
    """Contents are on the disk, names are not."""
    return broken(Files, "fsync_dir", lambda *_: None)


def manifest_not_synced() -> AbstractContextManager[None]:
    """All files but the manifest are on the disk."""
    fsync = Files.fsync

    def all_but_one(io: Files, path: Path) -> None:
        if path.name != MANIFEST:
            fsync(io, path)

    return broken(Files, "fsync", all_but_one)


def synced_before_written() -> AbstractContextManager[None]:
    """A file is brought to the disk while it is still empty."""

    def too_early(path: Path, content: Content, io: Files) -> None:
        path.touch()
        io.fsync(path)
        io.write(path, content)

    return broken(files, "_write_durably", too_early)

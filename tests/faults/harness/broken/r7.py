"""Broken builds for R7: the calls that make a save durable in another order, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.harness.firing import broken

from esper.core import atomic
from esper.core.atomic import Files


@contextmanager
def synced_after_rename() -> Iterator[None]:
    """Files are renamed first, and on the disk only then."""
    put_in_place = atomic._put_in_place

    def put_and_sync(temp: Path, final: Path, io: Files) -> None:
        put_in_place(temp, final, io)
        for path in final.iterdir():
            io.fsync(path)

    write = lambda path, content, io: io.write(path, content)  # noqa: E731
    with broken(atomic, "_write_durably", write), broken(atomic, "_put_in_place", put_and_sync):
        yield

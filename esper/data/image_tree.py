"""Lists the image files below a folder: no hidden files, links followed, link loops ended. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Folders made by archivers, file servers and interpreters, which hold no data.
_SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)

Identity = tuple[int, int]  # device and inode


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted; without hidden ones and links to a folder above themselves.

    Raises `DataError` for a folder that cannot be read.
    """
    with _as_data_error(folder):
        above = _with_parents(folder)
        return [item.name for item in _visible(folder) if item.is_dir() and _identity(item) not in above]


def image_files(folder: Path) -> list[Path]:
    """Return every visible file below `folder` with an image suffix, sorted, including broken links.

    Raises `DataError` for a folder that cannot be read.
    """
    with _as_data_error(folder):
        return sorted(_walk(folder, _with_parents(folder) | _with_parents(folder.parent)))


def _walk(folder: Path, above: frozenset[Identity]) -> Iterator[Path]:
    for item in _visible(folder):
        if item.is_dir():
            identity = _identity(item)
            if identity not in above:  # else a link to a folder that holds it: its images are listed already
                yield from _walk(item, above | {identity})
        elif item.suffix.lower() in SUFFIXES:
            yield item


def _visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted; names that start with a dot are hidden."""
    found = sorted(folder.iterdir())
    return [item for item in found if not item.name.startswith(".") and item.name not in _SYSTEM_FOLDERS]


def _with_parents(folder: Path) -> frozenset[Identity]:
    real = folder.resolve(strict=True)
    return frozenset(_identity(each) for each in (real, *real.parents))


def _identity(folder: Path) -> Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


@contextmanager
def _as_data_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror}") from error

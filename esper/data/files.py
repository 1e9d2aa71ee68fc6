"""Datasets in files: located, checked by their format, downloaded where allowed. No torch."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.data.catalogue import FileSet
from esper.data.download import extract, fetch, has_md5
from esper.data.formats import cifar_count, idx_shape
from esper.errors import DataError


def locate(files: FileSet, data_root: Path) -> Path | None:
    """Return the first folder that holds every file of the set, None where there is none."""
    for folder in _folders(files, data_root):
        if not missing(files, folder):
            return folder
    return None


def missing(files: FileSet, folder: Path) -> list[str]:
    """Return the names of the set's files that `folder` lacks, both plain and with `.gz`."""
    # One listing, so that a folder that another process renames into place is seen whole or not at all.
    try:
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        present = set()
    return [name for name in files.files if present.isdisjoint((name, f"{name}.gz"))]


def path_of(folder: Path, name: str) -> Path | None:
    """Return the path of a set's file in `folder`, plain or with `.gz`; None where it is missing."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def check_in_place(files: FileSet, data_root: Path, download: bool) -> None:
    """Raise `DataError` unless the set is in place with valid headers and lengths, or may be downloaded."""
    folder = locate(files, data_root)
    if folder is None:
        _reject_partial(files, data_root)
        if not download and _archive(files, data_root) is None:
            raise DataError(_not_found(files, data_root, "dataset.download is false"))
        return
    for name in files.files:
        path = path_of(folder, name)
        assert path is not None, "locate() returns only folders that hold every file"
        if files.label_bytes:
            cifar_count(path, files.label_bytes)
        else:
            idx_shape(path, () if "labels" in name else files.info.image_size or ())


def fetch_dataset(files: FileSet, data_root: Path, *, download: bool, mirror: str | None = None) -> Path:
    """Return the folder of a set, after downloading or unpacking it under `data_root` if needed.

    Processes that need the same set at the same time wait for the first.

    Args:
        files: the set.
        data_root: folder of all datasets.
        download: whether missing files may be downloaded.
        mirror: address that replaces the official one; the hashes stay the official ones.

    Raises:
        DataError: the set is missing, incomplete or damaged, or cannot be stored.
    """
    folder = locate(files, data_root)
    if folder is not None:
        return folder
    _reject_partial(files, data_root)
    if not download and _archive(files, data_root) is None:
        raise DataError(_not_found(files, data_root, "dataset.download is false"))
    home = data_root / files.name
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home):
            return locate(files, data_root) or _download(files, data_root, mirror or files.base_url)
    except OSError as error:
        raise DataError(f"{files.name} cannot be stored in {home}: {error}") from error


def _download(files: FileSet, data_root: Path, address: str) -> Path:
    target = data_root / files.folders[0]
    archive = _archive(files, data_root)
    wanted = [] if archive else list(files.downloads)
    if not files.archive:
        wanted = [f"{name}.gz" for name in missing(files, target)]
    for name in wanted:
        try:
            fetch(f"{address.rstrip('/')}/{name}", data_root / files.name / name, files.downloads[name])
        except DataError as error:
            raise DataError(_not_found(files, data_root, str(error))) from error
    if files.archive:
        fetched = data_root / files.name / files.archive
        extract(archive or fetched, files.archive_folder, files.files, target)
        if archive is None:
            fetched.unlink()  # its files are in place; an archive that the user put there stays
    return target


def _archive(files: FileSet, data_root: Path) -> Path | None:
    """Return the complete archive that the user (or an interrupted earlier run) left, or None."""
    for path in (data_root / files.name / files.archive, data_root / files.archive):
        if files.archive and path.is_file():
            if not has_md5(path, files.downloads[files.archive]):
                raise DataError(
                    f"{path} does not have the official MD5 {files.downloads[files.archive]}: "
                    "it is cut short or altered; delete it"
                )
            return path
    return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder`, which the system releases if the process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _folders(files: FileSet, data_root: Path) -> list[Path]:
    return [data_root / folder for folder in files.folders]


def _reject_partial(files: FileSet, data_root: Path) -> None:
    # An archive is unpacked as a whole, so an incomplete folder is the user's; single files are completed.
    if not files.archive:
        return
    for folder in _folders(files, data_root):
        missing_files = missing(files, folder)
        # nothing is missing if another process has stored the set since it was checked
        if 0 < len(missing_files) < len(files.files):
            raise DataError(
                f"{files.name} in {folder} lacks {', '.join(missing_files)}: put what is missing there, "
                "or delete the folder to have all of it fetched again"
            )


def _not_found(files: FileSet, data_root: Path, cause: str) -> str:
    looked = ", ".join(str(folder.resolve()) for folder in _folders(files, data_root))
    part = [
        f"{folder} lacks {', '.join(missing_files)}"
        for folder in _folders(files, data_root)
        if 0 < len(missing_files := missing(files, folder)) < len(files.files)
    ]
    put = f"{files.archive} or its files" if files.archive else ", ".join(files.downloads)
    home = (data_root / files.name).resolve()
    ways = [f"put {put} into {home}", "set dataset.download=true where there is a network"]
    ways += [files.hint] if files.hint else []
    lacks = f"; {'; '.join(part)}" if part else ""
    return f"{files.name} was not found in {looked}{lacks} ({cause}). To have it: {', or '.join(ways)}."

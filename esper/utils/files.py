"""Atomic and durable writes of files and folders, also in case of a crash."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from esper.errors import CheckpointError
from esper.utils.manifest import MANIFEST, check_name, hash_file, render_manifest

Content = bytes | Callable[[Path], None]  # bytes, or a function that writes the file at the path it is given

_TEMP = ".tmp-"
_ASIDE = ".old-"
_LEFTOVER = re.compile(r"\.(tmp|old)-(?P<name>.+)-[0-9a-f]{8}")


class Files:
    """The file operations of an atomic write; tests pass a subclass that fails or counts."""

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def write(self, path: Path, content: Content) -> None:
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)

    def fsync(self, path: Path) -> None:
        with path.open("r+b") as file:
            os.fsync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def fsync_dir(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


FILES = Files()


def write_json_atomic(path: Path, obj: Any, *, io: Files = FILES) -> None:
    """Write `obj` as indented JSON atomically; numbers that are not finite are written as NaN and Infinity.

    Raises:
        TypeError: a value is not JSON.
        OSError: the file cannot be written.
    """
    write_bytes_atomic(path, (json.dumps(obj, indent=2) + "\n").encode(), io=io)


def write_bytes_atomic(path: Path, data: bytes, *, io: Files = FILES) -> None:
    """Replace the content of a file atomically and durably; after an error it is unchanged.

    Missing parent folders are created.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(path, data, io=io)


def write_atomic(path: Path, content: Content, *, io: Files = FILES) -> None:
    """As `write_bytes_atomic`; `content` may also be a function that writes the file at a path."""
    temp = _beside(path, _TEMP)
    try:
        _make_folder(path.parent, io)
        _write_durably(temp, content, io)
        io.rename(temp, path)
        io.fsync_dir(path.parent)
    except BaseException:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def commit_folder(final: Path, files: Mapping[str, Content], *, io: Files = FILES) -> Path:
    """Create the folder `final` with these files and a manifest of their SHA-256 and sizes, by one rename.

    All files are durable before the rename, and the rename before the return. A folder of that name is
    replaced and removed only after the new one is durable.

    Args:
        final: the folder.
        files: content by file name.
        io: the file operations.

    Raises:
        CheckpointError: a write failed. The folder is then unchanged or, if only the last fsync failed, new.
    """
    for name in files:
        check_name(final, name)
    temp = _beside(final, _TEMP)
    try:
        _make_folder(final.parent, io)
        _fill(temp, files, io)
        _put_in_place(temp, final, io)
    except OSError as error:
        raise CheckpointError(f"{final} could not be written; what was there is kept: {error}") from error
    finally:
        # if it cannot be removed now, remove_stale recognises its name later
        shutil.rmtree(temp, ignore_errors=True)
    return final


def discard_folder(path: Path, *, io: Files = FILES) -> None:
    """Remove a folder; a crash never leaves a part of it under its name.

    Raises:
        CheckpointError: it cannot be removed.
    """
    temp = _beside(path, _TEMP)
    try:
        io.rename(path, temp)
        shutil.rmtree(temp)
    except OSError as error:
        raise CheckpointError(f"{path} could not be removed: {error}") from error


def remove_stale(parent: Path) -> list[str]:
    """Remove unfinished writes of a killed process in `parent`; returns their names.

    A folder that was moved aside for a replacement that was never completed is moved back. Only for the
    process that owns `parent`: unfinished writes of another live process would be removed, too.

    Raises:
        CheckpointError: one cannot be removed.
    """
    try:
        leftovers = sorted(filter(is_leftover, parent.iterdir())) if parent.is_dir() else []
        return [path.name for path in leftovers if not _restore_or_remove(path)]
    except OSError as error:
        raise CheckpointError(f"{parent} could not be cleared of unfinished files: {error}") from error


def is_leftover(path: Path) -> bool:
    """Whether the name is that of an unfinished write."""
    return _LEFTOVER.fullmatch(path.name) is not None


def is_being_replaced(parent: Path, name: str = "") -> bool:
    """Whether the folder `name` (or any) in `parent` was moved aside and is not replaced yet."""
    try:
        return shows_replacement({path.name for path in parent.iterdir()}, name)
    except OSError:
        return False


def shows_replacement(names: Collection[str], name: str = "") -> bool:
    """Whether in a listing of a folder `name` (or any) was moved aside and is not replaced yet."""
    aside = [_LEFTOVER.fullmatch(each) for each in names if each.startswith(_ASIDE)]
    found = [match["name"] for match in aside if match is not None]
    return any(name in ("", each) and each not in names for each in found)


def _fill(folder: Path, files: Mapping[str, Content], io: Files) -> None:
    io.mkdir(folder)
    entries = {}
    for name, content in files.items():
        _write_durably(folder / name, content, io)
        entries[name] = hash_file(folder / name)
    _write_durably(folder / MANIFEST, render_manifest(entries), io)
    io.fsync_dir(folder)


def _put_in_place(temp: Path, final: Path, io: Files) -> None:
    aside = _beside(final, _ASIDE) if final.exists() else None
    if aside is not None:
        io.rename(final, aside)
    try:
        io.rename(temp, final)
    except OSError:
        if aside is not None:
            aside.rename(final)
        raise
    io.fsync_dir(final.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _write_durably(path: Path, content: Content, io: Files) -> None:
    io.write(path, content)
    io.fsync(path)


def _make_folder(path: Path, io: Files) -> None:
    if path.is_dir():
        return
    _make_folder(path.parent, io)
    try:
        io.mkdir(path)
    except FileExistsError:  # another thread or process has created it meanwhile
        if not path.is_dir():
            raise
    io.fsync_dir(path.parent)


def _restore_or_remove(path: Path) -> bool:
    """Move a folder that was moved aside back if its name is free; remove any other leftover."""
    match = _LEFTOVER.fullmatch(path.name)
    assert match is not None
    original = path.with_name(match["name"])
    if path.name.startswith(_ASIDE) and not original.exists():
        path.rename(original)
        return True
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return False


def _beside(path: Path, prefix: str) -> Path:
    return path.with_name(f"{prefix}{path.name}-{secrets.token_hex(4)}")


def nearest_existing(path: Path) -> Path:
    """The path if it exists, else the nearest of its parents that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def move_aside(paths: Sequence[Path]) -> list[str]:
    """Rename files of an earlier run to `<name>.before-1`, or all to the first number that is free for all.

    TensorBoard event files are moved to a folder `before-1` instead, which TensorBoard shows as another run.

    Returns:
        `<old name> -> <new name>` for each.
    """
    moved = []
    for path, new in zip(paths, names_aside(paths), strict=True):
        new.parent.mkdir(exist_ok=True)
        path.rename(new)
        moved.append(f"{path.name} -> {new.relative_to(path.parent)}")
    return moved


def names_aside(paths: Sequence[Path]) -> list[Path]:
    """The paths that `move_aside` would use for these files."""
    names = ([_name_aside(path, number) for path in paths] for number in count(1))
    return next(row for row in names if not any(path.exists() for path in row))


def _name_aside(path: Path, number: int) -> Path:
    if "tfevents" in path.name:
        return path.parent / f"before-{number}" / path.name
    return path.with_name(f"{path.name}.before-{number}")

"""The manifest of a folder: SHA-256 and size of each file, and the verification against them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from esper.errors import CheckpointError
from esper.utils.open_files import OpenFolder, opened_folder, plain_size

MANIFEST = "manifest.json"
VERSION = 1

_FORMAT = "esper-folder"
LIMIT_BYTES = 1 << 20
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a folder; `size` in bytes."""

    sha256: str
    size: int


def check_name(folder: Path, name: str) -> None:
    """Raise `CheckpointError` unless `name` is a plain file name."""
    if not _PLAIN.fullmatch(name) or name == MANIFEST:
        raise CheckpointError(
            f"{folder}: {name!r} is not a valid file name; expected letters, digits, '.', '_' and '-'"
        )


def hash_file(path: Path) -> FileEntry:
    """SHA-256 and size of a file, read in blocks."""
    with path.open("rb") as file:
        return _measured(file)


def render_manifest(entries: Mapping[str, FileEntry]) -> bytes:
    """The bytes of a manifest with these entries; equal entries give equal bytes."""
    files = {name: asdict(entry) for name, entry in sorted(entries.items())}
    return (json.dumps({"format": _FORMAT, "version": VERSION, "files": files}, indent=2) + "\n").encode()


def read_manifest(folder: Path | OpenFolder) -> dict[str, FileEntry]:
    """Read a folder's manifest and check names, kinds and sizes of its files, but not their contents.

    Raises:
        CheckpointError: the manifest is missing, altered or of a later version; or a file is missing,
            foreign, not a plain file, or of another size.
    """
    with opened_folder(folder) as files:
        entries = _parse(files.path, files.file(MANIFEST).read(LIMIT_BYTES))
        for name in sorted(files.names() - {MANIFEST} - set(entries)):
            raise CheckpointError(f"{files.path}: {name!r} is not in its manifest")
        for name, entry in entries.items():
            size = files.file(name).size
            if size != entry.size:
                raise CheckpointError(
                    f"{files.path}: {name} is {size} bytes long, its manifest says {entry.size}"
                )
        return entries


def verify_folder(folder: Path | OpenFolder) -> dict[str, FileEntry]:
    """As `read_manifest`, and check the SHA-256 of all files; raises `CheckpointError` if one differs."""
    with opened_folder(folder) as files:
        entries = read_manifest(files)
        for name, entry in entries.items():
            try:
                found = _measured(files.file(name).file)
            except OSError as error:
                raise CheckpointError(f"{files.path}: {name} cannot be read: {error}") from error
            if found != entry:
                raise CheckpointError(
                    f"{files.path}: {name} is damaged: its SHA-256 is {found.sha256[:12]}..., "
                    f"its manifest says {entry.sha256[:12]}..."
                )
        return entries


def _measured(file: BufferedReader) -> FileEntry:
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(digest, file.tell())


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a plain file of at most `limit_bytes`. Raises `CheckpointError`."""
    size = plain_size(path)
    if size > limit_bytes:
        raise CheckpointError(f"{path} is {size} bytes long; at most {limit_bytes} are expected")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def parse_json_object(path: Path, raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`, the content of `path`. Raises `CheckpointError`."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def check_format(path: Path, found: Mapping[str, Any], name: str, version: int) -> None:
    """Raise `CheckpointError` unless `found` declares this format, and at most this version."""
    if found.get("format") != name:
        raise CheckpointError(f"{path} says its format is {found.get('format')!r}; expected {name!r}")
    given = found.get("version")
    if type(given) is not int or given < 1:
        raise CheckpointError(f"{path} says its version is {given!r}; expected a whole number from 1 on")
    if given > version:
        raise CheckpointError(
            f"{path} is of version {given}; this Esper reads up to version {version}: a newer one is needed"
        )


def _parse(folder: Path, raw: bytes) -> dict[str, FileEntry]:
    path = folder / MANIFEST
    found = parse_json_object(path, raw)
    check_format(path, found, _FORMAT, VERSION)
    files = found.get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{path} has no table of files")
    for name in files:
        check_name(folder, name)
    try:
        entries = {name: FileEntry(**fields) for name, fields in files.items()}
    except TypeError as error:
        raise CheckpointError(f"{path} does not give a SHA-256 and a size for each file: {error}") from error
    if render_manifest(entries) != raw:
        # only the exact bytes are accepted: no changed bit, duplicate key or additional field
        raise CheckpointError(f"{path} was altered: it is not written as Esper writes it")
    return entries

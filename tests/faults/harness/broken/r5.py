"""Broken builds for R5: damage that is not noticed, or not met in the right way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from faults.harness.firing import broken

from esper.core import atomic, manifest
from esper.core.manifest import FileEntry, read_manifest
from esper.errors import CheckpointError
from esper.tolaria.state import checkpoint

_MODEL = "model.safetensors"


def hashes_unchecked() -> AbstractContextManager[None]:
    """The manifest is read, and believed."""
    return broken(checkpoint, "verify_folder", read_manifest)


def sizes_only() -> AbstractContextManager[None]:
    """Sizes are compared, hashes are not."""

    def by_size(folder: Path) -> dict[str, FileEntry]:
        entries = read_manifest(folder)
        for name, entry in entries.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != entry.size:
                raise CheckpointError(f"{folder}: {name} is damaged")
        return entries

    return broken(checkpoint, "verify_folder", by_size)


@contextmanager
def first_block_hashed() -> Iterator[None]:
    """Only the first 4 KiB of a file are hashed, when it is saved and when it is read."""
    measure = manifest.measure

    def beginning(path: Path) -> FileEntry:
        return replace(measure(path), sha256=hashlib.sha256(path.read_bytes()[:4096]).hexdigest())

    with broken(manifest, "measure", beginning), broken(atomic, "measure", beginning):
        yield


def damaged_without_name() -> AbstractContextManager[None]:
    """A damaged checkpoint is refused without a word about which."""
    verify = manifest.verify_folder

    def anonymous(folder: Path) -> dict[str, FileEntry]:
        try:
            return verify(folder)
        except CheckpointError:
            raise CheckpointError("a checkpoint is damaged") from None

    return broken(checkpoint, "verify_folder", anonymous)


def model_hashed_only() -> AbstractContextManager[None]:
    """Of all files only the model's is compared with what was saved."""

    def one(folder: Path) -> dict[str, FileEntry]:
        entries = read_manifest(folder)
        if manifest.measure(folder / _MODEL) != entries[_MODEL]:
            raise CheckpointError(f"{folder}: {_MODEL} is damaged")
        return entries

    return broken(checkpoint, "verify_folder", one)

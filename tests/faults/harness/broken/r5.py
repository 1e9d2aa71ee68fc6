"""Broken builds for R5: damage that is not noticed, or not met in the right way."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import replace
from io import BufferedReader

from faults.harness.firing import broken

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import format as checkpoint_format
from esper.utils import manifest
from esper.utils.manifest import FileEntry, read_manifest
from esper.utils.open_files import OpenFolder

_MODEL = "model.safetensors"


def hashes_unchecked() -> AbstractContextManager[None]:
    """The manifest is read, and believed."""
    return broken(checkpoint_format, "verify_folder", read_manifest)


def sizes_only() -> AbstractContextManager[None]:
    """Sizes are compared, hashes are not."""

    def by_size(folder: OpenFolder) -> dict[str, FileEntry]:
        entries = read_manifest(folder)
        for name, entry in entries.items():
            if folder.file(name).size != entry.size:
                raise CheckpointError(f"{folder.path}: {name} is damaged")
        return entries

    return broken(checkpoint_format, "verify_folder", by_size)


def first_block_hashed() -> AbstractContextManager[None]:
    """Only the first 4 KiB of a file are hashed, when it is saved and when it is read."""
    measured = manifest._measured

    def beginning(file: BufferedReader) -> FileEntry:
        whole = measured(file)
        file.seek(0)
        return replace(whole, sha256=hashlib.sha256(file.read(4096)).hexdigest())

    return broken(manifest, "_measured", beginning)


def damaged_without_name() -> AbstractContextManager[None]:
    """A damaged checkpoint is refused without a word about which."""
    verify = manifest.verify_folder

    def anonymous(folder: OpenFolder) -> dict[str, FileEntry]:
        try:
            return verify(folder)
        except CheckpointError:
            raise CheckpointError("a checkpoint is damaged") from None

    return broken(checkpoint_format, "verify_folder", anonymous)


def model_hashed_only() -> AbstractContextManager[None]:
    """Of all files only the model's is compared with what was saved."""

    def one(folder: OpenFolder) -> dict[str, FileEntry]:
        entries = read_manifest(folder)
        if manifest._measured(folder.file(_MODEL).file) != entries[_MODEL]:
            raise CheckpointError(f"{folder.path}: {_MODEL} is damaged")
        return entries

    return broken(checkpoint_format, "verify_folder", one)

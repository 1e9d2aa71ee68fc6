"""Broken builds for R6: a failing disk that costs the previous checkpoint, or leaves half a state."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from faults.harness.firing import broken

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import checkpointer
from esper.tolaria.checkpoint import format as checkpoint_format
from esper.utils import files as files_module
from esper.utils.files import Content, Files
from esper.utils.safetensors import save_tensors


def written_in_place() -> AbstractContextManager[None]:
    """The files are written where they are to stand, one after the other."""
    return broken(checkpointer, "save_checkpoint", _write_in_place)


def _write_in_place(
    parent: Path, name: str, *, tensors: Mapping[str, Any], state: Mapping[str, Any], io: Files
) -> Path:
    folder = parent / name
    folder.mkdir(exist_ok=True)
    try:
        for stem, group in tensors.items():
            io.write(folder / f"{stem}.safetensors", partial(save_tensors, tensors=group))
            io.fsync(folder / f"{stem}.safetensors")
    except OSError as error:
        raise CheckpointError(str(error)) from error
    return folder


def previous_removed_first() -> AbstractContextManager[None]:
    """The checkpoint that is replaced goes before the new one is in its place."""

    def put(temp: Path, final: Path, io: Files) -> None:
        shutil.rmtree(final, ignore_errors=True)
        io.rename(temp, final)
        io.fsync_dir(final.parent)

    return broken(files_module, "_put_in_place", put)


def temporary_folder_left() -> AbstractContextManager[None]:
    """What could not be finished stays under its temporary name."""

    def commit(final: Path, files: Mapping[str, Content], *, io: Files) -> Path:
        temp = files_module._beside(final, files_module._TEMP)
        try:
            files_module._make_folder(final.parent, io)
            files_module._fill(temp, files, io)
            files_module._put_in_place(temp, final, io)
        except OSError as error:
            raise CheckpointError(f"{final} could not be written: {error}") from error
        return final

    return broken(checkpoint_format, "commit_folder", commit)


def error_swallowed() -> AbstractContextManager[None]:
    """A save that failed is taken for one that did not."""
    save = checkpointer.save_checkpoint

    def as_if_saved(parent: Path, name: str, **options: Any) -> Path:
        try:
            return save(parent, name, **options)
        except CheckpointError:
            return parent / name

    return broken(checkpointer, "save_checkpoint", as_if_saved)


def half_kept() -> AbstractContextManager[None]:
    """What could be written before the disk failed gets the checkpoint's name."""
    commit = checkpoint_format.commit_folder

    def salvaging(final: Path, files: Mapping[str, Content], *, io: Files) -> Path:
        try:
            return commit(final, files, io=io)
        except CheckpointError:
            final.mkdir(exist_ok=True)
            (final / "state.json").write_bytes(b"{")
            raise

    return broken(checkpoint_format, "commit_folder", salvaging)

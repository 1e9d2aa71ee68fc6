"""Broken builds for R1: saves that a kill may leave torn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from faults.harness import saving
from faults.harness.firing import broken

from esper.tolaria.checkpoint import checkpointer
from esper.tolaria.checkpoint import format as checkpoint_format
from esper.tolaria.checkpoint.checkpointer import Checkpointer
from esper.utils import files as files_module
from esper.utils.files import Content, Files
from esper.utils.manifest import MANIFEST, hash_file, render_manifest
from esper.utils.safetensors import save_tensors


def naive_writer() -> AbstractContextManager[None]:
    """The files of the last save are overwritten, one after the other."""
    return broken(checkpointer, "save_checkpoint", _overwrite)


def _overwrite(
    parent: Path, name: str, *, tensors: Mapping[str, Any], state: Mapping[str, Any], io: Files
) -> Path:
    folder = parent / "last"
    folder.mkdir(exist_ok=True)
    content = {"format": "esper-checkpoint", "version": 1, "sequence": 1, "state": state}
    io.write(folder / "state.json", json.dumps(content).encode())
    for stem, group in tensors.items():
        io.write(folder / f"{stem}.safetensors", partial(save_tensors, tensors=group))
        io.fsync(folder / f"{stem}.safetensors")
    entries = {path.name: hash_file(path) for path in folder.iterdir() if path.name != MANIFEST}
    io.write(folder / MANIFEST, render_manifest(entries))
    return folder


def filled_in_place() -> AbstractContextManager[None]:
    """A checkpoint has its name before it has its files."""

    def commit(final: Path, files: Mapping[str, Content], *, io: Files) -> Path:
        files_module._fill(final, files, io)
        return final

    return broken(checkpoint_format, "commit_folder", commit)


def old_ones_removed_first() -> AbstractContextManager[None]:
    """Room is made before the new checkpoint is there."""
    commit = checkpoint_format.commit_folder

    def after_clearing(final: Path, files: Mapping[str, Content], *, io: Files) -> Path:
        for path in final.parent.iterdir():
            shutil.rmtree(path)
        return commit(final, files, io=io)

    return broken(checkpoint_format, "commit_folder", after_clearing)


def acknowledged_before_durable() -> AbstractContextManager[None]:
    """A save is called done while it is still being written."""
    return broken(Checkpointer, "flush", lambda _: SimpleNamespace(error=""))


def leftovers_kept() -> AbstractContextManager[None]:
    """What a kill has left half done is not cleared at the next start."""
    return broken(saving, "remove_stale", lambda _: [])

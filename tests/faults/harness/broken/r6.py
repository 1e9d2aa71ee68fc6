"""Broken builds for R6: a failing disk that costs the previous checkpoint, or leaves half a state."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from faults.harness.firing import broken

from esper.core.atomic import Files
from esper.core.tensors import save_tensors
from esper.errors import CheckpointError
from esper.tolaria.state import store


def written_in_place() -> AbstractContextManager[None]:
    """The files are written where they are to stand, one after the other."""
    return broken(store, "save_checkpoint", _write_in_place)


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

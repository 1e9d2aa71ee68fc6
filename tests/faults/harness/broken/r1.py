"""Broken builds for R1: saves that a kill may leave torn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from faults.harness.firing import broken

from esper.core.atomic import Files
from esper.core.manifest import MANIFEST, measure, render
from esper.core.tensors import save_tensors
from esper.tolaria.state import store


def naive_writer() -> AbstractContextManager[None]:
    """The files of the last save are overwritten, one after the other."""
    return broken(store, "save_checkpoint", _overwrite)


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
    entries = {path.name: measure(path) for path in folder.iterdir() if path.name != MANIFEST}
    io.write(folder / MANIFEST, render(entries))
    return folder

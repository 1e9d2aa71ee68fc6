"""A checkpoint: a folder with state.json, a safetensors file for each owner of tensors, and a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.registry import references
from esper.tolaria.optimization.optimizer_state import EncodedJson
from esper.utils.files import FILES, Content, Files, commit_folder, is_leftover
from esper.utils.manifest import (
    MANIFEST,
    check_format,
    check_name,
    parse_json_object,
    read_bounded,
    read_manifest,
    verify_folder,
)
from esper.utils.open_files import OpenFolder, opened_folder
from esper.utils.safetensors import check_tensors, load_tensors, save_tensors

STATE = "state.json"
FORMAT = "esper-checkpoint"
VERSION = 1
# JSON grows about twenty-fold when parsed, and it is parsed before any of it can be verified
STATE_LIMIT_BYTES = 6 << 20


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """A checkpoint in a list, not verified.

    Attributes:
        path: its folder.
        sequence: the number of the save in its parent folder, from 1.
        step, epoch, batch: the position of the run.
        is_best: whether its model was the best so far.
        rollback: whether it was saved after a rollback to this position.
    """

    path: Path
    sequence: int
    step: int = 0
    epoch: int = 0
    batch: int = 0
    is_best: bool = False
    rollback: bool = False

    @property
    def position(self) -> tuple[int, int, int]:
        """The position of the run, as a tuple that increases during training."""
        return self.step, self.epoch, self.batch


def list_checkpoints(folder: Path) -> tuple[list[CheckpointEntry], list[str]]:
    """The checkpoints in `folder`, oldest save first, and a message for each that cannot be read.

    Only state.json is read, and no file is verified. Other folders are ignored.
    """
    entries, problems = [], []
    for path in _subfolders(folder):
        try:
            found = read_state(path)
            entries.append(_entry(path, found))
        except CheckpointError as error:
            if path.is_dir():  # else its run has removed it meanwhile
                problems.append(str(error))
    return sorted(entries, key=lambda entry: (entry.sequence, entry.path.name)), problems


def read_state(path: Path) -> dict[str, Any]:
    """Read state.json of the checkpoint `path`: sequence and state.

    Raises:
        CheckpointError: it is missing, too big, foreign, of a later version or incomplete.
    """
    return parse_state(path / STATE, read_bounded(path / STATE, STATE_LIMIT_BYTES))


def parse_state(file: Path, raw: bytes) -> dict[str, Any]:
    """As `read_state`, from the bytes of the file."""
    found = parse_json_object(file, raw)
    check_format(file, found, FORMAT, VERSION)
    if type(found.get("sequence")) is not int or not isinstance(found.get("state"), dict):
        raise CheckpointError(f"{file} lacks a part; expected a whole number as sequence, and state")
    return found


def _entry(path: Path, found: dict[str, Any]) -> CheckpointEntry:
    """The entry of a state that is not verified: it may contain anything."""
    progress = _nested(found["state"], "run", "progress")
    step, epoch, batch = (_int_or_zero(progress.get(name)) for name in ("step", "epoch", "batch"))
    best = _nested(found["state"], "owners", "best", "mark").get("epoch")
    is_best = not batch and epoch > 0 and best == epoch
    rollback = bool(_nested(found["state"], "run", "rollback"))
    return CheckpointEntry(path, found["sequence"], step, epoch, batch, is_best, rollback)


def _nested(value: Any, *names: str) -> dict[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _int_or_zero(value: Any) -> int:
    return value if type(value) is int else 0


def is_checkpoint(path: Path) -> bool:
    """Whether the folder is a checkpoint, possibly a damaged one."""
    return (path / MANIFEST).exists() or (path / STATE).exists()


def _subfolders(folder: Path) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be searched for checkpoints: {error}") from error
    own = (path for path in paths if path.is_dir() and not path.is_symlink() and not is_leftover(path))
    return filter(is_checkpoint, own)


_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint: `tensors` by file stem and name, `state` as JSON."""

    path: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def save_checkpoint(
    parent: Path,
    name: str,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    io: Files = FILES,
) -> Path:
    """Write the checkpoint `parent/name` atomically; it is complete and durable when this returns.

    A checkpoint of the same name is replaced in one step, after the new one is durable.

    Args:
        parent: the checkpoint folder, which is created if missing.
        name: the name of the checkpoint's own folder.
        tensors: named tensors by file stem; they must not change until this returns.
        state: JSON values; tuples become lists.
        io: the file operations.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: it could not be saved; what was there before is unchanged.
    """
    check_name(parent, name)
    _check_json("state", state)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "sequence": _next_sequence(parent),
        "state": state,
    }
    # no indent: with one, json uses its Python encoder, which holds the GIL against the training thread
    raw = (json.dumps(content) + "\n").encode()
    if len(raw) > STATE_LIMIT_BYTES:
        raise CheckpointError(
            f"the JSON state has {len(raw)} bytes; at most {STATE_LIMIT_BYTES} can be saved"
        )
    files: dict[str, Content] = {STATE: raw}
    for stem, group in tensors.items():
        files[f"{stem}{_SUFFIX}"] = partial(save_tensors, tensors=group)
    return commit_folder(parent / name, files, io=io)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Load and verify the checkpoint in the folder `path`, its tensors copied to `device`.

    Raises:
        CheckpointError: it is missing, damaged, foreign or of a later version.
    """
    with _opened(path) as folder:
        found, names = _verified(folder)
        tensors = {name.removesuffix(_SUFFIX): load_tensors(folder.file(name), device)[0] for name in names}
    state = found["state"]
    _check_tensor_names(path, state.get("owners"), tensors)
    return Checkpoint(path, state, tensors)


def _check_tensor_names(path: Path, owners: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise `CheckpointError` for missing tensors and for tensors that no owner's state refers to."""
    if not isinstance(owners, dict) or not owners:
        return  # no owner, so nothing can be restored from it
    for owner, group in tensors.items():
        named = references(owners.get(owner))
        if lacking := sorted(named - group.keys()):
            raise CheckpointError(f"{path}: the checkpoint lacks the tensor {lacking[0]!r} of {owner}")
        if stray := sorted(group.keys() - named):
            raise CheckpointError(
                f"{path}: the tensor {stray[0]!r} does not fit: the state of {owner} does not refer to it"
            )


def check_checkpoint(path: Path) -> dict[str, Any]:
    """Verify every file of the checkpoint `path`.

    Cheap checks come first, so that a malicious file is rejected before its size can cost time or memory.

    Returns:
        The content of state.json.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    with _opened(path) as folder:
        return _verified(folder)[0]


@contextmanager
def _opened(path: Path) -> Iterator[OpenFolder]:
    """The open folder of a checkpoint: opened files stay readable if its run removes the folder meanwhile."""
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a checkpoint: expected a folder that Esper has saved")
    if not is_checkpoint(path):
        raise CheckpointError(f"{path} is not a checkpoint: it holds no manifest.json and no {STATE}")
    with opened_folder(path) as folder:
        yield folder


def _verified(folder: OpenFolder) -> tuple[dict[str, Any], list[str]]:
    """The content of state.json, and the names of the files with tensors."""
    path = folder.path
    files = read_manifest(folder)  # opens them all
    if STATE not in files:
        raise CheckpointError(f"{path}: {STATE} is missing from its manifest")
    for name in files:
        if name.endswith(_SUFFIX):
            check_tensors(folder.file(name))
        elif name != STATE:
            raise CheckpointError(
                f"{path}: {name} is not part of a checkpoint; expected {STATE} and *{_SUFFIX}"
            )
    verify_folder(folder)
    found = parse_state(path / STATE, folder.file(STATE).read(STATE_LIMIT_BYTES))
    return found, sorted(name for name in files if name != STATE)


def _next_sequence(parent: Path) -> int:
    entries = list_checkpoints(parent)[0] if parent.is_dir() else []
    return 1 + max((entry.sequence for entry in entries), default=0)


def _check_json(path: str, value: Any) -> None:
    if isinstance(value, EncodedJson):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CheckpointError(
                    f"{path} has the key {key!r}, which JSON cannot hold; expected a string"
                )
            _check_json(f"{path}.{key}", item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(f"{path}[{i}]", item)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise CheckpointError(
            f"{path} is a {type(value).__qualname__}, which JSON cannot hold: {value!r:.80}"
        )

"""The checkpoint to start from: the newest good one of whatever folder one has at hand."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from esper.core.manifest import read_bounded
from esper.errors import CheckpointError
from esper.tolaria.state.abandoned import abandoned, refuse_abandoned, why_abandoned
from esper.tolaria.state.checkpoint import Checkpoint, check_checkpoint, load_checkpoint
from esper.tolaria.state.index import is_checkpoint, list_checkpoints, read_state

CONFIG_FILE = "config.yaml"  # in the folder of a run
DEFAULT_FOLDER = "checkpoints"

_CONFIG_LIMIT_BYTES = 64 << 10  # some ten times the default one; its parser reads 100 KB a second


@dataclass(frozen=True, slots=True)
class Found:
    """A verified checkpoint, and a sentence for each one that was refused on the way."""

    path: Path
    refused: tuple[str, ...]


def find_checkpoint(path: Path) -> Found:
    """The newest good one in `path`: a checkpoint, a folder of them, or the folder of a run.

    A run's own config.yaml says where its checkpoints are; without one they are in `checkpoints/`.
    A checkpoint that is named itself is taken or refused; among several, damaged ones are passed over, and so
    are those that a rollback has abandoned.
    Raises `CheckpointError` saying where it looked and why each one was refused.
    """
    _refuse_other(path)
    if is_checkpoint(path):
        check_checkpoint(path)
        refuse_abandoned(path)
        return Found(path, ())
    own = checkpoint_folder(path)
    folder = own if own.is_dir() else path
    entries, refused = list_checkpoints(folder)
    left = abandoned(entries)
    for entry in reversed(entries):
        if entry.path in left:
            refused.append(why_abandoned(entry.path, left[entry.path]))
            continue
        try:
            check_checkpoint(entry.path)
        except CheckpointError as error:
            refused.append(str(error))
        else:
            return Found(entry.path, tuple(refused))
    reasons = "".join(f"\n  {sentence}" for sentence in refused)
    raise CheckpointError(f"{folder} holds no {'good ' if refused else ''}checkpoint{reasons}")


def _refuse_other(path: Path) -> None:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # a name that is too long, say
        raise CheckpointError(f"{path} cannot be looked at: {error.strerror}") from error
    if not is_folder:
        kind = "is a file" if exists else "does not exist"
        raise CheckpointError(f"{path} {kind}; expected a checkpoint, a folder of them, or a run folder")


def saved_config(path: Path) -> dict[str, Any]:
    """The configuration of the run that saved the checkpoint `path`; raises `CheckpointError`."""
    run = read_state(path)["state"].get("run")
    config = run.get("config") if isinstance(run, dict) else None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} was saved by no run of Esper: it holds no configuration")
    return config


def checkpoint_folder(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints, whether it has any yet or not."""
    return run_dir / (_configured(run_dir / CONFIG_FILE) or DEFAULT_FOLDER)


def _configured(file: Path) -> str | None:
    """`checkpoint_dir` as a run's configuration names it, in a file that nobody has verified."""
    try:
        # the nodes only: building values from them could unfold a small file into a full memory
        root = yaml.compose(read_bounded(file, _CONFIG_LIMIT_BYTES), Loader=yaml.SafeLoader)
    except (CheckpointError, yaml.YAMLError, RecursionError, UnicodeDecodeError):
        return None
    found = _entry(_entry(root, "checkpoint"), "checkpoint_dir")
    usable = isinstance(found, yaml.ScalarNode) and found.value and "\0" not in found.value
    return str(found.value) if usable else None


def _entry(node: Any, key: str) -> Any:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def load_newest(folder: Path, at_or_before_step: int = sys.maxsize) -> Checkpoint:
    """The newest good checkpoint in `folder` whose run stood at or before a step; every file is read once.

    Those that a rollback has abandoned do not count. Raises `CheckpointError` saying why each was refused.
    """
    entries, refused = list_checkpoints(folder)
    left = abandoned(entries)
    for entry in reversed(entries):
        if entry.step <= at_or_before_step and entry.path not in left:
            try:
                return load_checkpoint(entry.path)
            except CheckpointError as error:
                refused.append(str(error))
    reasons = "".join(f"\n  {sentence}" for sentence in refused)
    raise CheckpointError(f"{folder} holds no good checkpoint to go back to{reasons}")

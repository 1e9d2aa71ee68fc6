"""The checkpoint to start from: the newest good one of whatever folder one has at hand."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.folder import CONFIG_FILE, checkpoint_folder, why_missing
from esper.tolaria.checkpoint.format import (
    Checkpoint,
    Entry,
    check_checkpoint,
    is_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from esper.tolaria.checkpoint.retention import abandoned, refuse_abandoned, why_abandoned
from esper.utils.files import is_being_replaced
from esper.utils.manifest import LIMIT_BYTES, MANIFEST, read_bounded

# A run that saves and removes all the time can be faster than one look, but not than so many.
_MOST_LOOKS = 50
_PAUSE_S = 0.01

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A verified checkpoint, and a sentence for each one that was refused on the way."""

    path: Path
    refused: tuple[str, ...]


class _ChangedError(Exception):
    """A checkpoint was removed or replaced while it was read."""


def find_checkpoint(path: Path) -> VerifiedCheckpoint:
    """The newest good one in `path`: a checkpoint, a folder of them, or the folder of a run.

    A run's own config.yaml says where its checkpoints are; without one they are in `checkpoints/`.
    A checkpoint that is named itself is taken or refused; among several, damaged ones are passed over, and so
    are those that a rollback has abandoned. One that its run removes meanwhile was neither: the folder is
    looked through again.
    Raises `CheckpointError` saying where it looked and why each one was refused.
    """
    return _newest(path, check_checkpoint)[0]


def find_and_load(path: Path) -> tuple[VerifiedCheckpoint, Checkpoint]:
    """The same, with its content, which is read once: also of a run that removes it a moment later."""
    return _newest(path, load_checkpoint)


def find_config(path: Path) -> tuple[VerifiedCheckpoint, dict[str, Any]]:
    """The same, with the configuration of the run that saved it."""
    found, content = _newest(path, check_checkpoint)
    return found, config_of(found.path, content["state"])


def config_of(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The configuration in the state of the checkpoint `path`; raises `CheckpointError`."""
    run = state.get("run")
    config = run.get("config") if isinstance(run, dict) else None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} was saved by no run of Esper: it holds no configuration")
    return config


def _newest(path: Path, read: Callable[[Path], T]) -> tuple[VerifiedCheckpoint, T]:
    """What `read` gives of the newest good checkpoint; it raises `CheckpointError` for one that is not."""
    for number in range(_MOST_LOOKS):
        try:
            return _look(path, read, last=number == _MOST_LOOKS - 1)
        except _ChangedError as error:
            reason = error
            time.sleep(_PAUSE_S)
    raise CheckpointError(
        f"{path} changes faster than it can be read; expected a run that keeps more of its checkpoints "
        f"(checkpoint.max_checkpoints), or none that writes ({reason})"
    )


def _look(path: Path, read: Callable[[Path], T], *, last: bool) -> tuple[VerifiedCheckpoint, T]:
    _refuse_other(path)
    if is_checkpoint(path):
        content = _steady(path, read)
        refuse_abandoned(path)
        return VerifiedCheckpoint(path, ()), content
    own = checkpoint_folder(path)
    folder = own if own.is_dir() else path
    missing = "" if own == folder else _why_not_there(path, own)
    return _steady(folder, partial(_search, read=read, missing=missing, last=last))


def _search(
    folder: Path, read: Callable[[Path], T], missing: str, *, last: bool
) -> tuple[VerifiedCheckpoint, T]:
    entries, refused = _listed(folder) if not last else list_checkpoints(folder)
    left = abandoned(entries)
    for entry in reversed(entries):
        if entry.path in left:
            refused.append(why_abandoned(entry.path, left[entry.path]))
            continue
        try:
            content = _steady(entry.path, read)
        except CheckpointError as error:
            refused.append(str(error))
        else:
            return VerifiedCheckpoint(entry.path, tuple(refused)), content
    raise _none_of(folder, refused, missing)


def _none_of(folder: Path, refused: list[str], missing: str) -> Exception:
    """What is raised where no checkpoint is good; `_ChangedError` where there is one after all."""
    if not refused and (is_being_replaced(folder) or list_checkpoints(folder) != ([], [])):
        return _ChangedError(f"the only checkpoint in {folder} is being replaced")
    reasons = "".join(f"\n  {sentence}" for sentence in refused)
    return CheckpointError(f"{folder} holds no {'good ' if refused else ''}checkpoint{missing}{reasons}")


def _listed(folder: Path) -> tuple[list[Entry], list[str]]:
    """`list_checkpoints` at a moment at which each checkpoint has its name; else raises `_ChangedError`."""
    before = _names(folder)
    listed = list_checkpoints(folder)
    if _names(folder) != before or is_being_replaced(folder):
        raise _ChangedError(f"{folder} changes")
    return listed


def _steady(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` gives of the folder; raises `_ChangedError` where it fails because that has changed."""
    before = _identity(path)
    try:
        return read(path)
    except CheckpointError as error:
        if _identity(path) != before:
            raise _ChangedError(" ".join(str(error).split())) from error
        raise


def _identity(path: Path) -> tuple[Any, ...] | None:
    """Which folder has this name now, and what is in it; None where there is none.

    The times of a folder are too coarse to tell two saves apart, and its number is given again. The names of
    unfinished writes are all different, and so are the manifests of two saves.
    """
    try:
        status = path.stat()
        names = _names(path)
        manifest = read_bounded(path / MANIFEST, LIMIT_BYTES) if MANIFEST in names else b""
    except (OSError, CheckpointError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, names, manifest


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be searched for checkpoints: {error}") from error


def _why_not_there(run_dir: Path, own: Path) -> str:
    """What is said of a run that has checkpoints elsewhere, as it says itself, where they are not."""
    told = (run_dir / CONFIG_FILE).is_file() or own.is_symlink()
    return f"; {why_missing(own)}" if told else ""


def _refuse_other(path: Path) -> None:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # a name that is too long, say
        raise CheckpointError(f"{path} cannot be looked at: {error.strerror}") from error
    if not exists and (is_being_replaced(path.parent, path.name) or path.exists()):
        raise _ChangedError(f"{path} is being replaced")
    if not is_folder:
        kind = "is a file" if exists else "does not exist"
        raise CheckpointError(f"{path} {kind}; expected a checkpoint, a folder of them, or a run folder")


def load_latest(folder: Path, at_or_before_step: int = sys.maxsize) -> Checkpoint:
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

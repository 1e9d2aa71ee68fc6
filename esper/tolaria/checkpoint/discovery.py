"""Finds the newest valid checkpoint of a run folder, a checkpoint folder or a checkpoint's own path."""

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
    CheckpointEntry,
    check_checkpoint,
    is_checkpoint,
    list_checkpoints,
    load_checkpoint,
)
from esper.tolaria.checkpoint.retention import check_not_abandoned, find_abandoned, why_abandoned
from esper.utils.files import is_being_replaced, shows_replacement
from esper.utils.manifest import LIMIT_BYTES, MANIFEST, read_bounded

# A run that saves and removes checkpoints may change the folder during one search, but not during so many.
_MAX_ATTEMPTS = 50
_PAUSE_S = 0.01

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A verified checkpoint, and a message for each newer one that was rejected."""

    path: Path
    refused: tuple[str, ...]


class _ChangedError(Exception):
    """A checkpoint was removed or replaced while it was read."""


def find_checkpoint(path: Path) -> VerifiedCheckpoint:
    """Find the newest valid checkpoint in `path`.

    The config.yaml of a run names its checkpoint folder; the default is `checkpoints/`. In a folder, damaged
    checkpoints and those abandoned by a rollback are skipped. If a checkpoint is removed by its run during
    the search, the folder is searched again.

    Args:
        path: a checkpoint, a folder of checkpoints, or the folder of a run.

    Raises:
        CheckpointError: none was found; the message says where was searched and why each was rejected.
    """
    return _find_newest(path, check_checkpoint)[0]


def find_and_load(path: Path) -> tuple[VerifiedCheckpoint, Checkpoint]:
    """As `find_checkpoint`, with the content, read once, so that a run may remove the checkpoint later."""
    return _find_newest(path, load_checkpoint)


def find_config(path: Path) -> tuple[VerifiedCheckpoint, dict[str, Any]]:
    """As `find_checkpoint`, with the configuration of the run that saved it."""
    found, content = _find_newest(path, check_checkpoint)
    return found, config_of(found.path, content["state"])


def config_of(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The configuration in the state of the checkpoint `path`; raises `CheckpointError`."""
    run = state.get("run")
    config = run.get("config") if isinstance(run, dict) else None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} was not saved by a run of Esper: it holds no configuration")
    return config


def _find_newest(path: Path, read: Callable[[Path], T]) -> tuple[VerifiedCheckpoint, T]:
    """The newest checkpoint for which `read` raises no `CheckpointError`, and its result."""
    for number in range(_MAX_ATTEMPTS):
        try:
            return _search_once(path, read, last=number == _MAX_ATTEMPTS - 1)
        except _ChangedError as error:
            reason = error
            time.sleep(_PAUSE_S)
    raise CheckpointError(
        f"{path} changes faster than it can be read; expected a run that keeps more of its checkpoints "
        f"(checkpoint.max_checkpoints), or none that writes ({reason})"
    )


def _search_once(path: Path, read: Callable[[Path], T], *, last: bool) -> tuple[VerifiedCheckpoint, T]:
    _check_path(path)
    if is_checkpoint(path):
        content = _read_unchanged(path, read)
        check_not_abandoned(path)
        return VerifiedCheckpoint(path, ()), content
    own = checkpoint_folder(path)
    folder = own if own.is_dir() else path
    missing = "" if own == folder else _missing_reason(path, own)
    return _read_unchanged(folder, partial(_search, read=read, missing=missing, last=last))


def _search(
    folder: Path, read: Callable[[Path], T], missing: str, *, last: bool
) -> tuple[VerifiedCheckpoint, T]:
    entries, refused = _list_unchanged(folder) if not last else list_checkpoints(folder)
    left = find_abandoned(entries)
    for entry in reversed(entries):
        if entry.path in left:
            refused.append(why_abandoned(entry.path, left[entry.path]))
            continue
        try:
            content = _read_unchanged(entry.path, read)
        except CheckpointError as error:
            refused.append(str(error))
        else:
            return VerifiedCheckpoint(entry.path, tuple(refused)), content
    raise _no_checkpoint_error(folder, refused, missing)


def _no_checkpoint_error(folder: Path, refused: list[str], missing: str) -> Exception:
    """The error for a folder without a valid checkpoint; `_ChangedError` if one is being written."""
    if not refused and (is_being_replaced(folder) or list_checkpoints(folder) != ([], [])):
        return _ChangedError(f"the only checkpoint in {folder} is being replaced")
    reasons = "".join(f"\n  {sentence}" for sentence in refused)
    return CheckpointError(f"{folder} holds no {'good ' if refused else ''}checkpoint{missing}{reasons}")


def _list_unchanged(folder: Path) -> tuple[list[CheckpointEntry], list[str]]:
    """`list_checkpoints`; raises `_ChangedError` if the folder changes meanwhile.

    What is being replaced is seen in the first listing: a replacement may end after the second one.
    """
    before = _names(folder)
    listed = list_checkpoints(folder)
    if _names(folder) != before or shows_replacement(before):
        raise _ChangedError(f"{folder} changes")
    return listed


def _read_unchanged(path: Path, read: Callable[[Path], T]) -> T:
    """The result of `read`; raises `_ChangedError` if it fails and the folder has changed meanwhile."""
    before = _identity(path)
    try:
        return read(path)
    except CheckpointError as error:
        if _identity(path) != before:
            raise _ChangedError(" ".join(str(error).split())) from error
        raise


def _identity(path: Path) -> tuple[Any, ...] | None:
    """A value that changes whenever the folder is replaced or its content changes; None if it is missing.

    Modification times are too coarse to distinguish two saves, and inode numbers are reused. Names of
    unfinished writes are unique, and so are the manifests of two saves.
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


def _missing_reason(run_dir: Path, own: Path) -> str:
    """The clause for a run whose configured checkpoint folder is missing; empty if none is configured."""
    configured = (run_dir / CONFIG_FILE).is_file() or own.is_symlink()
    return f"; {why_missing(own)}" if configured else ""


def _check_path(path: Path) -> None:
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # for example a name that is too long
        raise CheckpointError(f"{path} cannot be accessed: {error.strerror}") from error
    if not exists and (is_being_replaced(path.parent, path.name) or path.exists()):
        raise _ChangedError(f"{path} is being replaced")
    if not is_folder:
        kind = "is a file" if exists else "does not exist"
        raise CheckpointError(f"{path} {kind}; expected a checkpoint, a folder of them, or a run folder")


def load_latest(folder: Path, at_or_before_step: int = sys.maxsize) -> Checkpoint:
    """Load the newest valid checkpoint in `folder` of a step up to `at_or_before_step`.

    Every file is read once. Checkpoints that a rollback has abandoned are skipped.

    Raises:
        CheckpointError: there is none; the message says why each candidate was rejected.
    """
    entries, refused = list_checkpoints(folder)
    left = find_abandoned(entries)
    for entry in reversed(entries):
        if entry.step <= at_or_before_step and entry.path not in left:
            try:
                return load_checkpoint(entry.path)
            except CheckpointError as error:
                refused.append(str(error))
    reasons = "".join(f"\n  {sentence}" for sentence in refused)
    raise CheckpointError(f"{folder} holds no good checkpoint to go back to{reasons}")

"""Whether a run's checkpoint folder can be used: there, writable, this run's alone, and not lost.

It may be a link to another disk, lie outside of the run folder, or be on a disk that is not mounted now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from esper.config import TolariaConfig
from esper.config.messages import error_message
from esper.errors import ConfigError
from esper.leyline import EventName
from esper.loggers.jsonl_reader import EVENTS_FILE
from esper.runs.unfinished import own_config
from esper.tolaria.checkpoint import checkpoint_folder
from esper.tolaria.checkpoint.folder import is_same_folder, why_missing, why_unwritable
from esper.utils.files import is_leftover, remove_stale
from esper.utils.lock import LOCK_FILE, FolderLock

_KEY = "checkpoint.checkpoint_dir"
_HALTED = "emergency"


def folder_to_write(run_dir: Path, config: TolariaConfig) -> Path:
    """Where a run with this configuration saves."""
    return run_dir / config.checkpoint.checkpoint_dir


def folder_with_checkpoints(run_dir: Path, config: TolariaConfig) -> Path | None:
    """The folder with this run's checkpoints, where it has any.

    Raises `ConfigError` where one cannot be looked into.
    """
    for folder in (checkpoint_folder(run_dir), folder_to_write(run_dir, config)):
        try:
            if folder.is_dir() and any(_counts(path) for path in folder.iterdir()):
                return folder
        except OSError as error:
            expected = f"a folder that can be read ({folder}: {error.strerror})"
            raise ConfigError(error_message(_KEY, str(folder), expected)) from error
    return None


def is_own(checkpoint: Path, run_dir: Path, config: TolariaConfig) -> bool:
    """Whether a checkpoint lies where the run saves, by whatever links and mounts that is reached."""
    folders = (checkpoint_folder(run_dir), folder_to_write(run_dir, config))
    return any(is_same_folder(checkpoint.parent, folder) for folder in folders)


def refuse_unwritable(run_dir: Path, config: TolariaConfig) -> None:
    """Raise `ConfigError` where the checkpoints of a run could not be saved."""
    c = config.checkpoint
    saves = config.mode == "train" and c.save_checkpoints
    if saves and (reason := why_unwritable(folder_to_write(run_dir, config))):
        raise ConfigError(
            error_message(_KEY, c.checkpoint_dir, f"a folder that can be written to ({reason})")
        )


def refuse_lost(run_dir: Path, config: TolariaConfig, summary: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a run without checkpoints had some: a new start would lose its work.

    Its events, its summary and its final model tell; not a summary that says that no checkpoint was saved.
    """
    folder = checkpoint_folder(run_dir)
    last = _last_saved(run_dir / EVENTS_FILE)
    missing = why_missing(folder)
    evidence = f"{EVENTS_FILE} says that {last} was saved" if last else _evidence_of_results(run_dir, summary)
    if not evidence and "is a link to" not in missing:
        return
    reason = missing or f"{folder} is empty"
    saved = f", and {evidence}" if evidence else ""
    raise ConfigError(
        error_message(
            "checkpoint.resume_from_checkpoint",
            "auto",
            f"the checkpoints of the run in {run_dir} ({reason}{saved}); put that folder back or mount its "
            f"disk, or name where it is now by {_KEY}=<folder>, or begin a new run in another folder",
        )
    )


def _evidence_of_results(run_dir: Path, summary: Mapping[str, Any]) -> str:
    """The result that shows that the run in the folder had checkpoints, as a clause; empty for none."""
    config = own_config(run_dir)
    c = None if config is None else config.checkpoint
    if c is None or not c.save_checkpoints or summary.get("unsaved") or summary.get("stopped_by") == _HALTED:
        return ""
    if (run_dir / c.model_save_path).is_file():
        return f"its final model, {c.model_save_path}, is there"
    return "its summary says that it saved one" if summary.get("epochs_run") else ""


def claim(run_dir: Path, config: TolariaConfig, *, make: bool = False) -> FolderLock | None:
    """Lock a checkpoint folder that the lock of the run folder does not cover; None where that does.

    Two runs may name one folder, or link to it. Where there is none it is made, with `make`. Raises
    `ConfigError` where another run has it or it cannot be written to.
    """
    folder = folder_to_write(run_dir, config)
    if (
        config.mode != "train"
        or not config.checkpoint.save_checkpoints
        or not _lies_elsewhere(folder, run_dir)
    ):
        return None
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        return FolderLock.take(folder) if folder.is_dir() else None
    except OSError as error:
        expected = f"a folder that can be written to ({error.strerror})"
        raise ConfigError(error_message(_KEY, config.checkpoint.checkpoint_dir, expected)) from error


def clear_unfinished(run_dir: Path, places: Iterable[str]) -> None:
    """Remove what a killed run left half written in these folders of its own; elsewhere others may write."""
    for place in places:
        if (run_dir / place).resolve().is_relative_to(run_dir.resolve()):
            remove_stale((run_dir / place).resolve())


def _lies_elsewhere(folder: Path, run_dir: Path) -> bool:
    if not folder.resolve().is_relative_to(run_dir.resolve()):
        return True
    return folder.is_dir() and folder.stat().st_dev != run_dir.stat().st_dev  # another disk, mounted there


def _counts(path: Path) -> bool:
    return path.name != LOCK_FILE and not is_leftover(path)


def _last_saved(events: Path) -> str | None:
    """The name of the last checkpoint that a run says it has saved; a torn line says nothing."""
    last = None
    try:
        with events.open("rb") as file:
            for line in file:
                if EventName.CHECKPOINT_SAVED.encode() in line:
                    last = _saved_name(line) or last
    except OSError:
        return last
    return last


def _saved_name(line: bytes) -> str | None:
    try:
        event = json.loads(line)
        return str(event["data"]["name"]) if event["name"] == EventName.CHECKPOINT_SAVED else None
    except (ValueError, TypeError, KeyError):
        return None

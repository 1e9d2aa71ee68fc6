"""Which checkpoints a folder holds, in the order they were saved, as their own state.json files tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.errors import CheckpointError
from esper.utils.files import is_leftover
from esper.utils.manifest import MANIFEST, check_format, parse_json_object, read_bounded

STATE = "state.json"
FORMAT = "esper-checkpoint"
VERSION = 1
# JSON grows some twenty-fold when it is parsed, and it is parsed before anything in it can be believed
STATE_LIMIT_BYTES = 6 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint that can be named: where it is, and the how-manieth save in its folder it was.

    `step`, `epoch` and `batch` say where its run stood, `is_best` whether its model was the best so far,
    `rollback` whether it was saved because the run had gone back there.
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
        """Where its run stood, as a tuple that grows as the run goes on."""
        return self.step, self.epoch, self.batch


def list_checkpoints(folder: Path) -> tuple[list[Entry], list[str]]:
    """The checkpoints in `folder`, oldest save first, and a sentence for each that cannot be read.

    Only what orders them is read; no file is verified. Other folders do not count.
    """
    entries, problems = [], []
    for path in _subfolders(folder):
        try:
            found = read_state(path)
            entries.append(_entry(path, found))
        except CheckpointError as error:
            if path.is_dir():  # else it was removed meanwhile, by the run that it belongs to
                problems.append(str(error))
    return sorted(entries, key=lambda entry: (entry.sequence, entry.path.name)), problems


def read_state(path: Path) -> dict[str, Any]:
    """What state.json of the checkpoint `path` holds: sequence and state.

    Raises `CheckpointError` where it is missing, too big, foreign, of a later version or incomplete.
    """
    return parse_state(path / STATE, read_bounded(path / STATE, STATE_LIMIT_BYTES))


def parse_state(file: Path, raw: bytes) -> dict[str, Any]:
    """The same for the bytes of a state.json that was found at `file`."""
    found = parse_json_object(file, raw)
    check_format(file, found, FORMAT, VERSION)
    if type(found.get("sequence")) is not int or not isinstance(found.get("state"), dict):
        raise CheckpointError(f"{file} lacks a part; expected a whole number as sequence, and state")
    return found


def _entry(path: Path, found: dict[str, Any]) -> Entry:
    """What can be told from a state that nobody has verified: anything may stand in it."""
    progress = _at(found["state"], "run", "progress")
    step, epoch, batch = (_whole(progress.get(name)) for name in ("step", "epoch", "batch"))
    best = _at(found["state"], "owners", "best", "mark").get("epoch")
    is_best = not batch and epoch > 0 and best == epoch
    rollback = bool(_at(found["state"], "run", "rollback"))
    return Entry(path, found["sequence"], step, epoch, batch, is_best, rollback)


def _at(value: Any, *names: str) -> dict[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int:
    return value if type(value) is int else 0


def is_checkpoint(path: Path) -> bool:
    """Whether the folder is meant to be a checkpoint, a damaged one included."""
    return (path / MANIFEST).exists() or (path / STATE).exists()


def _subfolders(folder: Path) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be searched for checkpoints: {error}") from error
    own = (path for path in paths if path.is_dir() and not path.is_symlink() and not is_leftover(path))
    return filter(is_checkpoint, own)

"""The checkpoint to start from: the newest good one of whatever folder one has at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from esper.errors import CheckpointError
from esper.tolaria.state.checkpoint import check_checkpoint
from esper.tolaria.state.index import is_checkpoint, list_checkpoints


@dataclass(frozen=True, slots=True)
class Found:
    """A verified checkpoint, and a sentence for each one that was refused on the way."""

    path: Path
    refused: tuple[str, ...]


def find_checkpoint(path: Path) -> Found:
    """The newest good one in `path`: a checkpoint, a folder of them, or a run with `checkpoints/` in it.

    A checkpoint that is named itself is taken or refused; among several, damaged ones are passed over.
    Raises `CheckpointError` saying where it looked and why each one was refused.
    """
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {kind}; expected a checkpoint, a folder of them, or a run folder")
    if is_checkpoint(path):
        check_checkpoint(path)
        return Found(path, ())
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    entries, refused = list_checkpoints(folder)
    for entry in reversed(entries):
        try:
            check_checkpoint(entry.path)
        except CheckpointError as error:
            refused.append(str(error))
        else:
            return Found(entry.path, tuple(refused))
    reasons = "".join(f"\n  {sentence}" for sentence in refused)
    raise CheckpointError(f"{folder} holds no {'good ' if refused else ''}checkpoint{reasons}")

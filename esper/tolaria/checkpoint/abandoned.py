"""Finds the checkpoints that a rollback has abandoned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.index import Entry, list_checkpoints


def abandoned(entries: Sequence[Entry]) -> dict[Path, Entry]:
    """The checkpoints that must not be resumed, each with the rollback that abandoned it.

    A checkpoint saved at a rollback abandons every earlier save of the same position or a later one. Nothing
    else has to be on the disk: once it is durable they are abandoned, even if they were not removed yet.

    Args:
        entries: the checkpoints of a folder, oldest save first.
    """
    found: dict[Path, Entry] = {}
    back: Entry | None = None
    for entry in reversed(entries):
        if back is not None and entry.position >= back.position:
            found[entry.path] = back
        elif entry.rollback:
            back = entry
    return found


def refuse_abandoned(path: Path) -> None:
    """Raise `CheckpointError` where the checkpoint `path` was abandoned by another in its folder."""
    try:
        entries, _ = list_checkpoints(path.parent)
    except CheckpointError:  # a folder that may be entered but not listed shows no other
        return
    if (back := abandoned(entries).get(path)) is not None:
        raise CheckpointError(f"{why_abandoned(path, back)}; expected {back.path}, or an earlier one")


def why_abandoned(path: Path, back: Entry) -> str:
    """One clause that names both checkpoints."""
    return f"{path} was abandoned when the run was rolled back to step {back.step} ({back.path.name})"

"""Which checkpoints a rollback has abandoned: the run went back behind them and took another course."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.index import Entry, list_checkpoints


def abandoned(entries: Sequence[Entry]) -> dict[Path, Entry]:
    """Those of `entries`, oldest save first, that may not be resumed, and the rollback each is due to.

    A checkpoint that is saved at a rollback abandons every earlier save of the same position or a later one.
    Nothing else has to be on the disk for that: once it is durable they are abandoned, whether or not there
    was time to remove them.
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
    """One clause that names both."""
    return f"{path} was abandoned when the run was rolled back to step {back.step} ({back.path.name})"

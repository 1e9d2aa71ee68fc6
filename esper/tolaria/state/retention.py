"""How many checkpoints stay on the disk."""

from __future__ import annotations

from pathlib import Path

from esper.core.atomic import discard_folder
from esper.tolaria.state.index import list_checkpoints


def prune(folder: Path, *, keep: int) -> list[str]:
    """Remove all but the `keep` checkpoints in `folder` that were saved last; returns their names.

    To be called after a save has returned: only then is the new one durable. What cannot be read as a
    checkpoint is never removed, nor counted. Raises `CheckpointError` where one cannot be removed.
    """
    assert keep >= 1
    entries, _ = list_checkpoints(folder)
    doomed = entries[:-keep]
    for entry in doomed:
        discard_folder(entry.path)
    return [entry.path.name for entry in doomed]

"""Decides which checkpoints are kept on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.format import Entry, list_checkpoints
from esper.tolaria.checkpoint.metadata import CHECKPOINT_NAME
from esper.utils.files import discard_folder


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


@dataclass(frozen=True, slots=True)
class Retention:
    """Keeps the last checkpoints and the best: at most `keep` together, one of them the last.

    With `every`, those of each n-th epoch are kept as well. The best is the last one that was saved with the
    best model of its run; with `best` false it counts like any other.
    """

    keep: int
    every: int = 0
    best: bool = True

    def doomed(self, entries: Sequence[Entry]) -> list[Entry]:
        """Which of `entries`, oldest save first, are to go."""
        assert self.keep >= 1
        stay = {entry.path for entry in self._last_and_best(entries)}
        return [entry for entry in entries if entry.path not in stay and not self._milestone(entry)]

    def _last_and_best(self, entries: Sequence[Entry]) -> list[Entry]:
        last = list(entries[-self.keep :])
        best = [entry for entry in entries if self.best and entry.is_best][-1:]
        if best and self.keep > 1 and best[0] not in last:
            return best + last[1:]
        return last

    def _milestone(self, entry: Entry) -> bool:
        return self.every > 0 and entry.batch == 0 and entry.epoch > 0 and entry.epoch % self.every == 0


def prune(folder: Path, retention: Retention) -> list[str]:
    """Remove the checkpoints in `folder` that need not stay; returns their names.

    Those that a rollback has abandoned go first: they take nobody's place among those that stay.
    To be called after a save has returned: only then is the new one durable. What cannot be read as a
    checkpoint, or has a name that no save gives, such as a copy that was put there, is never removed, nor
    counted. Raises `CheckpointError` where one cannot be removed.
    """
    found, _ = list_checkpoints(folder)
    entries = [entry for entry in found if CHECKPOINT_NAME.fullmatch(entry.path.name)]
    left = abandoned(entries)
    doomed = [entry for entry in entries if entry.path in left]
    doomed += retention.doomed([entry for entry in entries if entry.path not in left])
    for entry in doomed:
        discard_folder(entry.path)
    return [entry.path.name for entry in doomed]

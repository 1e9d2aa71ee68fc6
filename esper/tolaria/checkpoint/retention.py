"""Decides which checkpoints are kept on the disk, and which were abandoned by a rollback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.format import CheckpointEntry, list_checkpoints
from esper.tolaria.checkpoint.metadata import CHECKPOINT_NAME
from esper.utils.files import discard_folder


def find_abandoned(entries: Sequence[CheckpointEntry]) -> dict[Path, CheckpointEntry]:
    """The checkpoints that must not be resumed, each with the rollback's checkpoint that abandoned it.

    A checkpoint saved after a rollback abandons every earlier save of the same or a later position, as soon
    as it is durable and before they are removed.

    Args:
        entries: the checkpoints of a folder, oldest save first.
    """
    found: dict[Path, CheckpointEntry] = {}
    back: CheckpointEntry | None = None
    for entry in reversed(entries):
        if back is not None and entry.position >= back.position:
            found[entry.path] = back
        elif entry.rollback:
            back = entry
    return found


def check_not_abandoned(path: Path) -> None:
    """Raise `CheckpointError` if the checkpoint `path` was abandoned by another one in its folder."""
    try:
        entries, _ = list_checkpoints(path.parent)
    except CheckpointError:  # a folder that cannot be listed
        return
    if (back := find_abandoned(entries).get(path)) is not None:
        raise CheckpointError(f"{why_abandoned(path, back)}; expected {back.path}, or an earlier one")


def why_abandoned(path: Path, back: CheckpointEntry) -> str:
    """The clause that names the abandoned checkpoint and that of the rollback."""
    return f"{path} was abandoned when the run was rolled back to step {back.step} ({back.path.name})"


@dataclass(frozen=True, slots=True)
class Retention:
    """Keeps the last checkpoints and the best one: at most `keep` in total, the last always among them.

    Args:
        keep: how many are kept, at least 1.
        every: also keep those of every n-th epoch; 0 for none.
        best: keep the last checkpoint that was saved with the best model of its run.
    """

    keep: int
    every: int = 0
    best: bool = True

    def to_remove(self, entries: Sequence[CheckpointEntry]) -> list[CheckpointEntry]:
        """Those of `entries`, oldest save first, that are not kept."""
        assert self.keep >= 1
        stay = {entry.path for entry in self._last_and_best(entries)}
        return [entry for entry in entries if entry.path not in stay and not self._is_periodic(entry)]

    def _last_and_best(self, entries: Sequence[CheckpointEntry]) -> list[CheckpointEntry]:
        last = list(entries[-self.keep :])
        best = [entry for entry in entries if self.best and entry.is_best][-1:]
        if best and self.keep > 1 and best[0] not in last:
            return best + last[1:]
        return last

    def _is_periodic(self, entry: CheckpointEntry) -> bool:
        return self.every > 0 and entry.batch == 0 and entry.epoch > 0 and entry.epoch % self.every == 0


def prune(folder: Path, retention: Retention) -> list[str]:
    """Remove abandoned checkpoints and those that `retention` does not keep.

    Call it after a save has returned: only then the new checkpoint is durable. Unreadable checkpoints, and
    folders whose name no save gives (a user's copies), are neither removed nor counted.

    Returns:
        The names of the removed checkpoints.

    Raises:
        CheckpointError: one cannot be removed.
    """
    found, _ = list_checkpoints(folder)
    entries = [entry for entry in found if CHECKPOINT_NAME.fullmatch(entry.path.name)]
    left = find_abandoned(entries)
    to_remove = [entry for entry in entries if entry.path in left]
    to_remove += retention.to_remove([entry for entry in entries if entry.path not in left])
    for entry in to_remove:
        discard_folder(entry.path)
    return [entry.path.name for entry in to_remove]

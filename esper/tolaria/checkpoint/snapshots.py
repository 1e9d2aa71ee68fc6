"""Snapshots: states of a run that are kept in memory, to go back to in a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.buffers import Buffers
from esper.tolaria.checkpoint.registry import State, StateRegistry, Tensors
from esper.tolaria.optimization.optimizer_state import EncodedJson
from esper.tolaria.train_state import Progress


@dataclass(slots=True)
class Snapshot:
    """A state of the run, as a checkpoint holds it; `nbytes` of tensors, `good` once somebody said so."""

    step: int
    epoch: int
    batch: int
    tensors: Tensors = field(repr=False)
    state: State = field(repr=False)
    nbytes: int
    good: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """No snapshot was taken, and why."""

    reason: str


class Snapshots:
    """The last snapshots that fit into `limit_bytes` with all kept buffers; the least recently used go first.

    `metadata` makes what stands beside the owners' state in a checkpoint. For the loop's thread only.
    """

    def __init__(
        self, limit_bytes: int, manager: StateRegistry, metadata: Callable[[Progress], dict[str, Any]]
    ) -> None:
        self.limit_bytes = limit_bytes
        self.manager = manager
        self.metadata = metadata
        self.taken = 0
        self._kept: dict[int, Snapshot] = {}
        self.buffers = Buffers()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are kept, each counted once."""
        return sum(t.nbytes for t in self._distinct().values())

    @property
    def steps(self) -> list[int]:
        """Steps of the snapshots that are kept."""
        return sorted(self._kept)

    def take(self, progress: Progress) -> Snapshot | Refused:
        """Keep the state as it is now; one of the same step is replaced."""
        try:
            metadata, collected = self.metadata(progress), self.manager.collect()
        except CheckpointError as error:
            return Refused(str(error))
        nbytes = sum(t.nbytes for group in collected.tensors.values() for t in group.values())
        if nbytes > self.limit_bytes:
            return Refused(f"a snapshot takes {nbytes:,} bytes, at most {self.limit_bytes:,} are to be kept")
        self.drop(progress.step)
        shared = [t for name in collected.shared for t in collected.tensors.get(name, {}).values()]
        self._make_room(nbytes, shared)
        tensors = collected.copy(self.buffers)
        state = EncodedJson({"run": metadata, "owners": collected.state})
        snapshot = Snapshot(progress.step, progress.epoch, progress.batch, tensors, state, nbytes)
        self._kept[progress.step] = snapshot
        self.trim()
        self.taken += 1
        return snapshot

    def good(self, step: int) -> None:
        """The snapshot of this step has been verified: it may be gone back to."""
        if step in self._kept:
            self._kept[step].good = True

    def nearest(self, at_or_before_step: int) -> Snapshot | None:
        """The newest good one at or before a step, used by that."""
        steps = [s for s, kept in self._kept.items() if kept.good and s <= at_or_before_step]
        if not steps:
            return None
        found = self._kept.pop(max(steps))
        self._kept[found.step] = found
        return found

    def drop(self, step: int) -> None:
        """Let the snapshot of a step go, if there is one."""
        if (found := self._kept.pop(step, None)) is not None:
            self.buffers.give(found.tensors)

    def drop_after(self, step: int) -> None:
        """Let go of what was taken after a step: the run has gone back behind it."""
        for later in [s for s in self._kept if s > step]:
            self.drop(later)

    def trim(self) -> None:
        """Let go of free buffers that would take more than the limit."""
        self.buffers.trim(self.limit_bytes - self.nbytes)

    def clear(self) -> None:
        """Let everything go, the buffers included."""
        self._kept.clear()
        self.buffers = Buffers()

    def _make_room(self, nbytes: int, shared: list[Tensor]) -> None:
        while self._kept and self._with(shared) + nbytes > self.limit_bytes:
            self.drop(next(iter(self._kept)))

    def _with(self, shared: list[Tensor]) -> int:
        """Bytes kept besides those that a new snapshot would share."""
        common = {id(t) for t in shared}
        return sum(t.nbytes for key, t in self._distinct().items() if key not in common)

    def _distinct(self) -> dict[int, Tensor]:
        groups = (group for kept in self._kept.values() for group in kept.tensors.values())
        return {id(t): t for group in groups for t in group.values()}

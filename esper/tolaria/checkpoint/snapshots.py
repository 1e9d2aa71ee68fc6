"""Snapshots: states of a run that are kept in memory for a fast rollback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.buffers import BufferPool
from esper.tolaria.checkpoint.registry import State, StateRegistry, Tensors
from esper.tolaria.optimization.optimizer_state import EncodedJson
from esper.tolaria.train_state import Progress


@dataclass(slots=True)
class Snapshot:
    """A state of the run, as in a checkpoint; `nbytes` of tensors, `good` after `Snapshots.mark_good`."""

    step: int
    epoch: int
    batch: int
    tensors: Tensors = field(repr=False)
    state: State = field(repr=False)
    nbytes: int
    good: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotRefused:
    """No snapshot was taken, for this reason."""

    reason: str


class Snapshots:
    """The last snapshots that fit into `limit_bytes` with all pooled buffers (least recently used first out).

    Not thread-safe. `metadata` makes the part of a checkpoint's state that is not from the owners.
    """

    def __init__(
        self, limit_bytes: int, registry: StateRegistry, metadata: Callable[[Progress], dict[str, Any]]
    ) -> None:
        self.limit_bytes = limit_bytes
        self.registry = registry
        self.metadata = metadata
        self.taken = 0
        self._kept: dict[int, Snapshot] = {}
        self.buffers = BufferPool()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in snapshots, each counted once."""
        return sum(t.nbytes for t in self._distinct().values())

    @property
    def steps(self) -> list[int]:
        """Steps of the snapshots, ascending."""
        return sorted(self._kept)

    def take(self, progress: Progress) -> Snapshot | SnapshotRefused:
        """Keep a copy of the present state; a snapshot of the same step is replaced."""
        try:
            metadata, collected = self.metadata(progress), self.registry.collect()
        except CheckpointError as error:
            return SnapshotRefused(str(error))
        nbytes = sum(t.nbytes for group in collected.tensors.values() for t in group.values())
        if nbytes > self.limit_bytes:
            return SnapshotRefused(f"a snapshot takes {nbytes:,} bytes, the limit is {self.limit_bytes:,}")
        self.drop(progress.step)
        shared = [t for name in collected.shared for t in collected.tensors.get(name, {}).values()]
        self._evict(nbytes, shared)
        tensors = collected.copy(self.buffers)
        state = EncodedJson({"run": metadata, "owners": collected.state})
        snapshot = Snapshot(progress.step, progress.epoch, progress.batch, tensors, state, nbytes)
        self._kept[progress.step] = snapshot
        self.trim()
        self.taken += 1
        return snapshot

    def mark_good(self, step: int) -> None:
        """Allow rollbacks to the snapshot of this step."""
        if step in self._kept:
            self._kept[step].good = True

    def nearest(self, at_or_before_step: int) -> Snapshot | None:
        """The newest good snapshot of a step up to `at_or_before_step`; counts as its use."""
        steps = [s for s, kept in self._kept.items() if kept.good and s <= at_or_before_step]
        if not steps:
            return None
        found = self._kept.pop(max(steps))
        self._kept[found.step] = found
        return found

    def drop(self, step: int) -> None:
        """Remove the snapshot of a step, if there is one."""
        if (found := self._kept.pop(step, None)) is not None:
            self.buffers.release(found.tensors)

    def drop_after(self, step: int) -> None:
        """Remove the snapshots of later steps, after a rollback."""
        for later in [s for s in self._kept if s > step]:
            self.drop(later)

    def trim(self) -> None:
        """Free unused buffers beyond the limit."""
        self.buffers.trim(self.limit_bytes - self.nbytes)

    def clear(self) -> None:
        """Remove all snapshots and free the buffers."""
        self._kept.clear()
        self.buffers = BufferPool()

    def _evict(self, nbytes: int, shared: list[Tensor]) -> None:
        while self._kept and self._bytes_beside(shared) + nbytes > self.limit_bytes:
            self.drop(next(iter(self._kept)))

    def _bytes_beside(self, shared: list[Tensor]) -> int:
        """Bytes of the snapshots without those that a new snapshot would share."""
        common = {id(t) for t in shared}
        return sum(t.nbytes for key, t in self._distinct().items() if key not in common)

    def _distinct(self) -> dict[int, Tensor]:
        groups = (group for kept in self._kept.values() for group in kept.tensors.values())
        return {id(t): t for group in groups for t in group.values()}

"""Topology changes: what the optimizer must apply, and how a change is undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from esper.kasmina.gates import GateResult
from esper.kasmina.record import SeedRecord
from esper.kasmina.seed import Seed
from esper.leyline import SeedStage


@dataclass(frozen=True, slots=True)
class TrainingPosition:
    """Position in training.

    Args:
        step: optimizer steps done.
        epoch: epochs finished.

    Example:
        >>> TrainingPosition(step=100, epoch=2).epoch
        2
    """

    step: int
    epoch: int


@dataclass(frozen=True, slots=True)
class StageMove:
    """One stage transition of one seed.

    Args:
        record: the seed's record.
        old: stage before.
        new: stage after; equal to `old` where a gate blocked the seed, and, without gate results, where a
            blend was reversed.
        reason: one sentence.
        gate_results: results of the gates of this transition.
    """

    record: SeedRecord
    old: SeedStage
    new: SeedStage
    reason: str
    gate_results: Sequence[GateResult] = ()


@dataclass(slots=True)
class TopologyChange:
    """What the optimizer must apply before the next step, and how to undo it.

    Args:
        added: (slot key, module) of new seeds, which are optimised separately.
        activated: (slot key, module) of seeds whose parameters now train with the host's.
        removed: (slot key, module) of seeds whose parameters must be dropped.
        moves: the stage transitions.
        undo_steps: functions that undo the change, in order of execution.
    """

    added: list[tuple[str, Seed]] = field(default_factory=list)
    activated: list[tuple[str, Seed]] = field(default_factory=list)
    removed: list[tuple[str, Seed]] = field(default_factory=list)
    moves: list[StageMove] = field(default_factory=list)
    undo_steps: list[Callable[[], None]] = field(default_factory=list)

    @property
    def structural(self) -> bool:
        """Whether the set of trained modules has changed."""
        return bool(self.added or self.activated or self.removed)

    def undo(self) -> None:
        """Restore the seeds to their state before the change."""
        for step in reversed(self.undo_steps):
            step()
        self.undo_steps.clear()

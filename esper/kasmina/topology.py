"""What a change of topology consists of, for those who have to follow it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from esper.kasmina.gates import GateResult
from esper.kasmina.record import SeedRecord
from esper.kasmina.seed import Seed
from esper.leyline import SeedStage


@dataclass(frozen=True, slots=True)
class TrainingPosition:
    """Optimiser steps done and epochs finished."""

    step: int
    epoch: int


@dataclass(frozen=True, slots=True)
class StageMove:
    """One move of one seed, with the verdicts of the gates it passed.

    `new` is `old` where a gate was closed, and, with no verdict, where a blend was turned back.
    """

    record: SeedRecord
    old: SeedStage
    new: SeedStage
    reason: str
    gate_results: Sequence[GateResult] = ()


@dataclass(slots=True)
class TopologyChange:
    """What the optimiser has to follow, and how to undo it.

    `born`, `joined` and `gone` hold (slot key, module): seeds to be optimised on their own from now on,
    seeds whose parameters now train with the host's, seeds whose parameters are to be forgotten.
    """

    added: list[tuple[str, Seed]] = field(default_factory=list)
    activated: list[tuple[str, Seed]] = field(default_factory=list)
    removed: list[tuple[str, Seed]] = field(default_factory=list)
    moves: list[StageMove] = field(default_factory=list)
    undo_steps: list[Callable[[], None]] = field(default_factory=list)

    @property
    def structural(self) -> bool:
        """Whether the forward of the host is another one than before."""
        return bool(self.added or self.activated or self.removed)

    def undo(self) -> None:
        """Bring the seeds back to where they were before the change."""
        for step in reversed(self.undo_steps):
            step()
        self.undo_steps.clear()

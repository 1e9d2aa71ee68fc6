"""A policy that plants what it was told, when it was told: a control arm, or an expert's own plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, Candidate, CommandKind, Outcome, Refusal, SystemStatePacket
from esper.tamiyo.base import CommandWriter
from esper.tamiyo.budget import Budget, matches
from esper.tamiyo.pruning import PruningRule

# Refusals that will not be otherwise at the next decision.
_FINAL = frozenset({Refusal.GATE, Refusal.INVALID, Refusal.DUPLICATE})


@dataclass(frozen=True, slots=True)
class PlannedSeed:
    """A seed to plant once `at_epoch` epochs are finished, or `at_step` optimiser steps done.

    `options` left out are those of the largest candidate on offer; `seed_index` None: the first free slot.
    """

    layer: str
    blueprint: str
    at_epoch: int | None = None
    at_step: int | None = None
    placement: str = "series"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed_index: int | None = None

    def __post_init__(self) -> None:
        if (self.at_epoch is None) == (self.at_step is None):
            given = "neither" if self.at_epoch is None else "both"
            raise ConfigError(f"the seed planned at {self.layer!r} needs at_epoch or at_step; it has {given}")
        if self.placement not in ("series", "parallel"):
            raise ConfigError(
                f"the seed planned at {self.layer!r} has placement {self.placement!r}; "
                "it must be 'series' or 'parallel'"
            )

    def due(self, packet: SystemStatePacket) -> bool:
        if self.at_epoch is not None:
            return packet.epoch >= self.at_epoch
        return self.at_step is not None and packet.step >= self.at_step


class ScheduledPolicy:
    """Plants `seeds` (a list of `PlannedSeed`s, or of mappings with its fields), each once.

    A planned seed that a limit held back (cap, cooldown, pause, no free slot) is tried again at the next
    decision; one that Kasmina refuses is dropped.
    judge, min_gain, min_confidence, confirmations, patience_epochs: see `PruningRule`.
    """

    def __init__(
        self,
        seeds: Sequence[PlannedSeed | Mapping[str, Any]],
        *,
        judge: str = "impact",
        min_gain: float = 0.005,
        min_confidence: float = 0.7,
        confirmations: int = 1,
        patience_epochs: int = 3,
    ) -> None:
        self.plan = [
            seed if isinstance(seed, PlannedSeed) else _read(i, seed) for i, seed in enumerate(seeds)
        ]
        self.judge = PruningRule(
            judge,
            min_gain=min_gain,
            min_confidence=min_confidence,
            confirmations=confirmations,
            patience_epochs=patience_epochs,
        )
        self._writer = CommandWriter("scheduled")
        self._done: set[int] = set()
        self._sent: dict[str, int] = {}

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """Verdicts on seeds first, then whatever is due."""
        commands = [self._writer.judged(packet, verdict) for verdict in self.judge.verdicts(packet)]
        ground = Budget(packet)
        self._sent = {}
        for number, planned in enumerate(self.plan):
            if number in self._done or not planned.due(packet):
                continue
            slot = _slot(planned, ground)
            if slot is None:
                continue
            command = self._plant(packet, ground, planned, slot)
            self._sent[command.command_id] = number
            commands.append(command)
        return commands

    def report(self, outcome: Outcome) -> None:
        number = self._sent.pop(outcome.command.command_id, None)
        if number is None or outcome.command.kind is not CommandKind.GERMINATE:
            return
        if outcome.applied or outcome.refusal in _FINAL:
            self._done.add(number)

    def state_dict(self) -> dict[str, Any]:
        return {
            "judge": self.judge.state_dict(),
            "done": sorted(self._done),
            "sent": dict(self._sent),
            "commands": self._writer.count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.judge.load_state_dict(state["judge"])
        self._done = set(state["done"])
        self._sent = dict(state["sent"])
        self._writer.count = int(state["commands"])

    def _plant(
        self, packet: SystemStatePacket, ground: Budget, planned: PlannedSeed, slot: int
    ) -> AdaptationCommand:
        when = f"epoch {planned.at_epoch}" if planned.at_step is None else f"step {planned.at_step}"
        candidate = _candidate(planned, ground)
        if planned.layer in ground.free and slot in ground.free[planned.layer]:
            ground.free[planned.layer].remove(slot)
            ground.room -= candidate.params
            ground.flops -= candidate.flops
        return self._writer.germinate(
            packet,
            planned.layer,
            slot,
            candidate,
            confidence=1.0,
            urgency=1.0,
            reason=f"planned for {when}: {planned.blueprint} in {planned.placement} at {planned.layer}",
            evidence={"params": float(candidate.params), "flops": float(candidate.flops)},
        )


def _read(number: int, seed: Mapping[str, Any]) -> PlannedSeed:
    known = [f.name for f in fields(PlannedSeed)]
    unknown = sorted(set(seed) - set(known))
    missing = sorted({"layer", "blueprint"} - set(seed))
    if unknown or missing:
        problem = f"does not know {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        raise ConfigError(f"planned seed {number} {problem}; its fields are {', '.join(known)}")
    return PlannedSeed(**seed)


def _slot(planned: PlannedSeed, ground: Budget) -> int | None:
    """The slot to use, or None while there is none; a layer that no packet knows is Kasmina's to refuse."""
    if planned.layer not in ground.free:
        return planned.seed_index or 0
    free = ground.free[planned.layer]
    if planned.seed_index is not None:
        return planned.seed_index if planned.seed_index in free else None
    return free[0] if free else None


def _candidate(planned: PlannedSeed, ground: Budget) -> Candidate:
    """The largest fitting candidate on offer; else the plan as it stands, for Kasmina to judge."""
    site = ground.sites.get(planned.layer)
    offers = site.candidates if site is not None else ()
    wanted = (planned.blueprint, planned.placement, planned.options)
    fitting = [
        c for c in offers if c.params <= ground.room and c.flops <= ground.flops and matches(c, *wanted)
    ]
    if fitting:
        return max(fitting, key=lambda candidate: candidate.params)
    return Candidate(planned.blueprint, planned.placement, dict(planned.options), 0, 0)

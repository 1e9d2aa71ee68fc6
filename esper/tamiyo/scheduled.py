"""A policy that germinates given seeds at given times: a control arm, or an expert's plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, Candidate, CommandKind, Outcome, Refusal, SystemStatePacket
from esper.tamiyo.base import CommandWriter, Rationale
from esper.tamiyo.budget import Budget, candidate_matches
from esper.tamiyo.pruning import PruningRule

# Refusals that the next decision would get again.
_FINAL = frozenset({Refusal.GATE, Refusal.INVALID, Refusal.DUPLICATE})


@dataclass(frozen=True, slots=True)
class PlannedSeed:
    """A seed to germinate at a given time; exactly one of `at_epoch` and `at_step` must be given.

    Args:
        layer: name of the layer.
        blueprint: name of the blueprint.
        at_epoch: epochs that must be finished.
        at_step: optimizer steps that must be done.
        placement: "series" or "parallel".
        options: arguments of the blueprint; missing ones are those of the largest candidate.
        seed_index: slot; None takes the first free one.

    Raises:
        ConfigError: both or neither of the times are given, or the placement is unknown.

    Example:
        >>> PlannedSeed("fc1", "mlp", at_epoch=2, options={"hidden": 16}).placement
        'series'
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
        """Whether its time has come."""
        if self.at_epoch is not None:
            return packet.epoch >= self.at_epoch
        return self.at_step is not None and packet.step >= self.at_step


class ScheduledPolicy:
    """Germinates each of `seeds` once, at its time.

    A planned seed that a limit delays (cap, cooldown, pause, no free slot) is tried again at the next
    decision; one that Kasmina rejects is dropped.

    Args:
        seeds: `PlannedSeed`s, or mappings with their fields.
        judge: mode of the pruning rule, "impact" or "keep"; see `PruningRule` for it and the next four.
        min_gain: share of the validation loss that a seed must remove.
        min_confidence: probability that a pruning decision needs.
        confirmations: epochs in a row that must speak against a seed.
        patience_epochs: epochs of probation after which a seed without a clear effect is culled.

    Raises:
        ConfigError: a planned seed or a value is not valid.

    Example:
        >>> policy = ScheduledPolicy([{"layer": "fc1", "blueprint": "mlp", "at_epoch": 1}], judge="keep")
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
        self.pruning_rule = PruningRule(
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
        """Return pruning decisions first, then the germinations that are due."""
        commands = [
            self._writer.from_decision(packet, decision) for decision in self.pruning_rule.decisions(packet)
        ]
        budget = Budget(packet)
        self._sent = {}
        for number, planned in enumerate(self.plan):
            if number in self._done or not planned.due(packet):
                continue
            slot = _slot(planned, budget)
            if slot is None:
                continue
            command = self._germinate(packet, budget, planned, slot)
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
            "judge": self.pruning_rule.state_dict(),
            "done": sorted(self._done),
            "sent": dict(self._sent),
            "commands": self._writer.count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pruning_rule.load_state_dict(state["judge"])
        self._done = set(state["done"])
        self._sent = dict(state["sent"])
        self._writer.count = int(state["commands"])

    def _germinate(
        self, packet: SystemStatePacket, budget: Budget, planned: PlannedSeed, slot: int
    ) -> AdaptationCommand:
        when = f"epoch {planned.at_epoch}" if planned.at_step is None else f"step {planned.at_step}"
        candidate = _candidate(planned, budget)
        if planned.layer in budget.free and slot in budget.free[planned.layer]:
            budget.free[planned.layer].remove(slot)
            budget.remaining_params -= candidate.params
            budget.remaining_flops -= candidate.flops
        return self._writer.germinate(
            packet,
            planned.layer,
            slot,
            candidate,
            Rationale(
                1.0,
                1.0,
                f"planned for {when}: {planned.blueprint} in {planned.placement} at {planned.layer}",
                {"params": float(candidate.params), "flops": float(candidate.flops)},
            ),
        )


def _read(number: int, seed: Mapping[str, Any]) -> PlannedSeed:
    known = [f.name for f in fields(PlannedSeed)]
    unknown = sorted(set(seed) - set(known))
    missing = sorted({"layer", "blueprint"} - set(seed))
    if unknown or missing:
        problem = f"does not know {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        raise ConfigError(f"planned seed {number} {problem}; its fields are {', '.join(known)}")
    return PlannedSeed(**seed)


def _slot(planned: PlannedSeed, budget: Budget) -> int | None:
    """Return the slot to use, or None while none is free; Kasmina rejects a layer that no packet has."""
    if planned.layer not in budget.free:
        return planned.seed_index or 0
    free = budget.free[planned.layer]
    if planned.seed_index is not None:
        return planned.seed_index if planned.seed_index in free else None
    return free[0] if free else None


def _candidate(planned: PlannedSeed, budget: Budget) -> Candidate:
    """Return the largest fitting candidate; without one the plan as it is, which Kasmina checks."""
    site = budget.sites.get(planned.layer)
    offers = site.candidates if site is not None else ()
    wanted = (planned.blueprint, planned.placement, planned.options)
    fitting = [
        c
        for c in offers
        if c.params <= budget.remaining_params
        and c.flops <= budget.remaining_flops
        and candidate_matches(c, *wanted)
    ]
    if fitting:
        return max(fitting, key=lambda candidate: candidate.params)
    return Candidate(planned.blueprint, planned.placement, dict(planned.options), 0, 0)

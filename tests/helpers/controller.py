"""A growth controller over a small host, with a scripted policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.grown import Grown, make_host
from helpers.packets import packet
from helpers.runs import Notes, germinate

from esper.config import MorphogeneticConfig
from esper.leyline import AdaptationCommand, Outcome, Refusal
from esper.tolaria.events import Telemetry
from esper.tolaria.growth.controller import GrowthController


class ScriptedPolicy:
    """A policy that returns the commands in `next` and records their outcomes."""

    def __init__(self) -> None:
        self.next: Sequence[Any] = ()
        self.outcomes: list[Outcome] = []

    def decide(self, packet: Any) -> Sequence[Any]:
        return self.next

    def report(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def state_dict(self) -> dict[str, Any]:
        return {"outcomes": len(self.outcomes)}

    def load_state_dict(self, state: Any) -> None:
        self.outcomes = [None] * state["outcomes"]  # type: ignore[list-item]


@dataclass
class ControllerSetup:
    """A growth controller over a small host, with a clock that tests set."""

    loop: GrowthController
    policy: ScriptedPolicy
    grown: Grown
    notes: Notes
    now: list[float]
    structural: list[int] = field(default_factory=list)

    def decide(self, *commands: Any, epoch: int = 1, step: int = 10) -> list[Refusal | None]:
        self.policy.next = commands
        outcomes = self.loop.decide(packet(step=step, epoch=epoch), running_epoch=epoch)
        return [outcome.refusal for outcome in outcomes]

    def refusals(self) -> list[dict[str, Any]]:
        return [dict(event.data) for event in self.notes.named("adaptation_refused")]


def make_controller(
    *, policy: Any = None, grown: Grown | None = None, max_params: int = 10**9, **options: Any
) -> ControllerSetup:
    grown = grown or make_host(slots=4)
    policy, notes, now = policy or ScriptedPolicy(), Notes(), [1000.0]
    given = {"adaptation_cooldown": 0.0, "max_adaptations_per_epoch": 100}
    structural: list[int] = []
    loop = GrowthController(
        policy,
        grown.seeds,
        grown.optimizers,
        Telemetry(notes),
        MorphogeneticConfig(**(given | options)),
        max_params=max_params,
        hook_budget_ms=options.pop("hook_budget_ms", 1e9),
        on_structure=lambda change: structural.append(len(change.moves)),
        clock=lambda: now[0],
    )
    return ControllerSetup(loop, policy, grown, notes, now, structural)


def germination(number: int, layer: str = "a", slot: int = 0, **changes: Any) -> AdaptationCommand:
    return germinate(layer, changes.pop("blueprint", "mlp"), number=number, seed_index=slot, **changes)

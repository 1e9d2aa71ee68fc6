"""B1, T8, T15: every limit refuses visibly, and nobody's failure is the run's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from helpers.grown import Grown, make_host
from helpers.packets import packet
from helpers.runs import Notes, germinate, same, tell, weights
from torch import Tensor, nn

from esper.config import MorphogeneticConfig
from esper.errors import CheckpointError
from esper.kasmina import Clock, Cost, SiteShape, register_blueprint
from esper.kasmina.blueprints import registry
from esper.leyline import AdaptationCommand, CommandKind, Impact, Outcome, Refusal, SeedStage
from esper.tolaria.control import ControlLoop
from esper.tolaria.optimizer import OptimizerManager
from esper.tolaria.telemetry import Telemetry

CULL, FOSSILIZE, PAUSE = CommandKind.CULL, CommandKind.FOSSILIZE, CommandKind.PAUSE


@pytest.fixture(autouse=True)
def same_blueprints_after() -> Iterator[None]:
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


class Says:
    """A policy that gives the commands it holds at the time, and remembers what became of them."""

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
class Desk:
    """A control loop over a small host, with a clock that is set by hand."""

    loop: ControlLoop
    policy: Says
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


def make_desk(
    *, policy: Any = None, grown: Grown | None = None, max_params: int = 10**9, **options: Any
) -> Desk:
    grown = grown or make_host(slots=4)
    policy, notes, now = policy or Says(), Notes(), [1000.0]
    given = {"adaptation_cooldown": 0.0, "max_adaptations_per_epoch": 100}
    structural: list[int] = []
    loop = ControlLoop(
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
    return Desk(loop, policy, grown, notes, now, structural)


def plant(number: int, layer: str = "a", slot: int = 0, **changes: Any) -> AdaptationCommand:
    return germinate(layer, changes.pop("blueprint", "mlp"), number=number, seed_index=slot, **changes)


# -- limits --------------------------------------------------------------------------------------


def test_a_command_within_all_limits_is_applied_and_told() -> None:
    desk = make_desk()
    assert desk.decide(plant(1, evidence={"gain": 0.5})) == [None]
    assert desk.grown.model.record("a", 0).stage is SeedStage.BLENDING
    (event,) = desk.notes.named("adaptation_applied")
    assert event.data["command_id"] == "test-1"
    assert (event.data["reason"], event.data["evidence"]) == ("a test wants it", {"gain": 0.5})
    assert desk.structural == [3]
    assert [e.data["to"] for e in desk.notes.named("seed_stage")] == ["germinated", "training", "blending"]


@pytest.mark.parametrize(
    ("changes", "options", "refusal", "said"),
    [
        ({"confidence": 0.69}, {}, Refusal.CONFIDENCE, "0.690 is below 0.7"),
        ({"urgency": 0.49}, {}, Refusal.URGENCY, "0.490 is below 0.5"),
        ({}, {"max_adaptations_per_epoch": 0}, Refusal.CAP, "at most 0"),
        ({"layer": "nowhere"}, {}, Refusal.INVALID, "nowhere"),
        ({"seed_index": 9}, {}, Refusal.INVALID, "slots 0 to 3"),
        ({"blueprint": "mpl"}, {}, Refusal.INVALID, "mlp"),
        ({"options": {"hiden": 3}}, {}, Refusal.INVALID, "hiden"),
        ({"placement": "beside"}, {}, Refusal.INVALID, "beside"),
        ({"kind": CULL}, {}, Refusal.INVALID, "nothing to cull"),
        ({"kind": FOSSILIZE}, {}, Refusal.INVALID, "not probationary"),
    ],
)
def test_each_refusal_names_its_limit_and_changes_nothing(
    changes: dict[str, Any], options: dict[str, Any], refusal: Refusal, said: str
) -> None:
    desk = make_desk(**options)
    before, topology = weights(desk.grown.model), copy.deepcopy(desk.grown.model.topology())
    assert desk.decide(replace(plant(1), **changes)) == [refusal]
    (told,) = desk.refusals()
    assert told["refusal"] == refusal.value
    assert said in told["detail"]
    assert same(weights(desk.grown.model), before)
    assert desk.grown.model.topology() == topology
    assert desk.policy.outcomes[0].refusal is refusal
    assert desk.structural == []
    assert desk.loop.counts == {"proposed": 1, "applied": 0, "refused": 1}


@pytest.mark.parametrize("name", ["confidence", "urgency"])
def test_a_threshold_itself_is_enough(name: str) -> None:
    desk = make_desk(**{f"{name}_threshold": 0.6})
    assert desk.decide(plant(1, **{name: 0.6})) == [None]


def test_the_cap_counts_an_epoch_and_the_most_urgent_go_first() -> None:
    desk = make_desk(max_adaptations_per_epoch=2)
    commands = [plant(n, slot=n, urgency=urgency) for n, urgency in enumerate([0.6, 0.9, 0.7, 0.5])]
    assert desk.decide(*commands, epoch=3) == [None, None, Refusal.CAP, Refusal.CAP]
    assert [o.command.urgency for o in desk.policy.outcomes] == [0.9, 0.7, 0.6, 0.5]
    assert desk.decide(plant(7, "b"), epoch=3, step=20) == [Refusal.CAP]
    assert desk.decide(plant(8, "b"), epoch=4) == [None]


def test_every_kind_of_command_counts_for_the_cap() -> None:
    """K3: germinate, cull, fossilise and pause."""
    desk = make_desk(max_adaptations_per_epoch=2, grown=make_host(blend_steps=0))
    desk.decide(plant(1))
    assert desk.decide(
        tell(CULL, "a", number=2, urgency=1.0),
        tell(PAUSE, number=3, urgency=0.9, pause_epochs=1),
        plant(4, "b", urgency=0.8),
        epoch=2,
    ) == [None, None, Refusal.CAP]


def test_the_cooldown_in_epochs() -> None:
    desk = make_desk(adaptation_cooldown_epochs=3)
    assert desk.decide(plant(1), plant(2, slot=1), epoch=5) == [None, None]  # one round, one decision
    assert desk.decide(plant(3, slot=2), epoch=6) == [Refusal.COOLDOWN]
    assert desk.decide(plant(3, slot=2), epoch=7) == [Refusal.COOLDOWN]
    assert "within 3 epochs" in desk.refusals()[-1]["detail"]
    assert desk.decide(plant(3, slot=2), epoch=8) == [None]


def test_the_cooldown_in_seconds() -> None:
    desk = make_desk(adaptation_cooldown=30.0)
    assert desk.decide(plant(1)) == [None]
    desk.now[0] += 29.9
    assert desk.decide(plant(2, slot=1), epoch=2) == [Refusal.COOLDOWN]
    assert "30 s ago" in desk.refusals()[-1]["detail"]
    desk.now[0] += 0.1
    assert desk.decide(plant(2, slot=1), epoch=2) == [None]


def test_a_refused_command_starts_no_cooldown() -> None:
    desk = make_desk(adaptation_cooldown_epochs=3, adaptation_cooldown=30.0)
    assert desk.decide(plant(1, confidence=0.1), epoch=1) == [Refusal.CONFIDENCE]
    assert desk.decide(plant(2), epoch=2) == [None]


def test_a_pause_holds_back_germination_and_nothing_else() -> None:
    desk = make_desk(grown=make_host(blend_steps=0))
    desk.decide(plant(1), epoch=1)
    assert desk.decide(tell(PAUSE, number=2, pause_epochs=2), epoch=2) == [None]
    assert desk.decide(plant(3, slot=1), epoch=3) == [Refusal.PAUSED]
    assert "until epoch 4" in desk.refusals()[-1]["detail"]
    assert desk.decide(tell(CULL, "a", number=4), epoch=3) == [None]
    assert desk.decide(plant(3, "b"), epoch=4) == [None]


def test_a_command_is_applied_once() -> None:
    desk = make_desk()
    assert desk.decide(plant(1)) == [None]
    assert desk.decide(plant(1, slot=1)) == [Refusal.DUPLICATE]
    assert desk.decide(plant(2, confidence=0.1)) == [Refusal.CONFIDENCE]
    assert desk.decide(plant(2, slot=1)) == [None]  # a refused one may come again


def test_the_bound_on_parameters_holds_between_commands_of_one_round() -> None:
    host, trial = make_host(slots=4), make_desk()
    total = host.model.total_params()
    trial.decide(plant(1, options={"hidden": 4}))
    size = trial.grown.model.total_params() - total
    desk = make_desk(grown=host, max_params=total + 2 * size)
    commands = [plant(n, slot=n, options={"hidden": 4}) for n in range(3)]
    assert desk.decide(*commands) == [None, None, Refusal.BUDGET]
    assert f"at most {total + 2 * size:,}" in desk.refusals()[-1]["detail"]
    assert desk.grown.model.total_params() == total + 2 * size


def test_a_closed_gate_refuses_with_its_evidence() -> None:
    desk = make_desk(grown=make_host(blend_steps=0))
    desk.decide(plant(1))
    desk.grown.model.record("a", 0).impact = Impact(-0.1, 0.01, 0.0, 100)
    assert desk.decide(tell(FOSSILIZE, "a", number=2)) == [Refusal.GATE]
    assert "impact" in desk.refusals()[-1]["detail"]
    desk.grown.model.record("a", 0).impact = Impact(0.1, 0.01, 0.0, 100)
    assert desk.decide(tell(FOSSILIZE, "a", number=3)) == [None]


def test_a_cull_is_told_as_both_its_moves() -> None:
    desk = make_desk(grown=make_host(blend_steps=0))
    desk.decide(plant(1))
    desk.decide(tell(CULL, "a", number=2), epoch=2)
    moves = [(e.data["from"], e.data["to"]) for e in desk.notes.named("seed_stage")][-2:]
    assert moves == [("probationary", "culled"), ("culled", "embargoed")]
    assert desk.notes.named("seed_stage")[-1].data["gates"][0]["gate"] == "reset"
    assert [e.data["params"] for e in desk.notes.named("topology_changed")][
        -1
    ] == desk.grown.model.host_params()


# -- failures ------------------------------------------------------------------------------------


class Raises(Says):
    """A user's policy with a bug in one of its methods."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def _bug(self, where: str) -> None:
        if where == self.where:
            raise KeyError("a bug of the user's")

    def decide(self, packet: Any) -> Sequence[Any]:
        self._bug("decide")
        return super().decide(packet)

    def report(self, outcome: Outcome) -> None:
        self._bug("report")
        super().report(outcome)

    def state_dict(self) -> dict[str, Any]:
        self._bug("state_dict")
        return super().state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._bug("load_state_dict")
        super().load_state_dict(state)


@pytest.mark.parametrize("where", ["decide", "report"])
def test_a_policy_that_raises_does_not_end_the_run(where: str) -> None:
    """B3."""
    desk = make_desk(policy=Raises(where))
    desk.decide(plant(1))
    (event,) = desk.notes.named("tolaria.tamiyo_error")
    assert "a bug of the user's" in event.data["reason"]
    assert event.level == "error"
    desk.policy.where = ""  # type: ignore[attr-defined]
    assert desk.decide(plant(2, slot=1)) == [None]


@pytest.mark.parametrize("answer", [[None], ["germinate"], [plant(1), 5]])
def test_a_policy_that_gives_no_commands_is_told_so(answer: list[Any]) -> None:
    desk = make_desk()
    assert desk.decide(*answer) == []
    assert "expected AdaptationCommand" in desk.notes.named("tolaria.tamiyo_error")[0].data["reason"]


@pytest.mark.parametrize("where", ["state_dict", "load_state_dict"])
def test_a_policy_without_its_memory_is_a_checkpoint_error(where: str) -> None:
    desk = make_desk()
    state = desk.loop.state_dict()
    desk.loop.tamiyo = Raises(where)
    with pytest.raises(CheckpointError, match="a bug of the user's"):
        desk.loop.state_dict() if where == "state_dict" else desk.loop.load_state_dict(state)


class Fragile(nn.Module):
    """A blueprint's module that raises whatever it is told to, in its forward."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12))
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error("a blueprint of the user's")


def fits(shape: SiteShape) -> None:
    return None


def register(name: str, make: Callable[[], nn.Module]) -> str:
    register_blueprint(name, fits=fits, count=lambda shape: Cost(12, 12))(lambda shape: make())
    return name


@pytest.mark.parametrize("error", [RuntimeError, TypeError, KeyError, AssertionError, AttributeError])
@pytest.mark.parametrize("where", ["make", "forward"])
def test_a_blueprint_that_raises_does_not_end_the_run(error: type[Exception], where: str) -> None:
    def make() -> nn.Module:
        if where == "make":
            raise error("a blueprint of the user's")
        return Fragile(error)

    desk = make_desk()
    before = copy.deepcopy(desk.grown.model.topology())
    name = register(f"fragile_{where}_{error.__name__}", make)
    (refusal,) = desk.decide(plant(1, blueprint=name))
    assert refusal in (Refusal.GATE, Refusal.INVALID)
    assert "a blueprint of the user's" in desk.refusals()[0]["detail"]
    assert "a blueprint of the user's" in desk.notes.named("tolaria.kasmina_error")[0].data["reason"]
    assert desk.grown.model.topology() == before
    assert list(desk.grown.model.seeds) == []
    assert not desk.grown.model.host.get_submodule("a")._forward_hooks
    assert desk.decide(plant(2)) == [None]


class Odd(nn.Module):
    """A blueprint's module that does `act` with its input."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x * self.weight)


@pytest.mark.parametrize(
    ("name", "act", "said"),
    [
        ("nan", lambda x: x * torch.nan, "NaN or infinite"),
        ("first", lambda x: x[:1], "of 3 samples"),  # broadcasting would hide it
        ("narrow", lambda x: x[:, :5], "(5,) is not the layer's (12,)"),
        ("single", lambda x: x.view(12), "fails on shape"),
    ],
)
def test_a_blueprint_whose_module_would_spoil_the_host_is_refused(
    name: str, act: Callable[[Tensor], Tensor], said: str
) -> None:
    """K3: alpha 0 times NaN is NaN, so it must not even be born."""
    desk = make_desk()
    assert desk.decide(plant(1, blueprint=register(f"odd_{name}", lambda: Odd(act)))) == [Refusal.GATE]
    assert said in desk.refusals()[0]["detail"]
    assert list(desk.grown.model.seeds) == []


class Stubborn(torch.optim.SGD):
    """An optimiser that takes no further groups while it is told not to."""

    stubborn = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.stubborn:
            raise ArithmeticError("no more groups")
        super().add_param_group(param_group)


def stubborn(manager: OptimizerManager, yes: bool) -> None:
    assert isinstance(manager.main, Stubborn)
    manager.main.stubborn = yes


def test_an_optimiser_that_raises_undoes_the_seed_and_the_command() -> None:
    """T8."""
    desk = make_desk(grown=make_host(factory=lambda groups: Stubborn(groups, lr=0.1)))
    stubborn(desk.grown.optimizers, True)
    before = copy.deepcopy(desk.grown.model.topology())
    assert desk.decide(plant(1)) == [Refusal.INVALID]
    assert "ArithmeticError: no more groups" in desk.refusals()[0]["detail"]
    assert desk.grown.model.topology() == before
    assert desk.structural == []
    assert desk.notes.named("seed_stage") == []  # nothing happened, so nothing is told
    stubborn(desk.grown.optimizers, False)
    assert desk.decide(plant(1)) == [None]


def test_an_optimiser_that_raises_when_a_seed_joins_leaves_it_where_it_was() -> None:
    desk = make_desk(grown=make_host(factory=lambda groups: Stubborn(groups, lr=0.1), isolation_steps=2))
    desk.decide(plant(1), step=0)
    stubborn(desk.grown.optimizers, True)
    desk.loop.advance(Clock(5, 1))
    record = desk.grown.model.record("a", 0)
    assert record.stage is SeedStage.TRAINING
    assert list(desk.grown.optimizers.isolated) == [record.key]
    assert len(desk.notes.named("tolaria.kasmina_error")) == 1
    stubborn(desk.grown.optimizers, False)
    desk.loop.advance(Clock(5, 1))
    assert record.stage is SeedStage.BLENDING
    assert desk.grown.optimizers.isolated == {}


def test_over_its_budget_is_an_event_and_no_more() -> None:
    """T15."""
    desk = make_desk()
    desk.loop.hook_budget_ms = 0.0
    assert desk.decide(plant(1)) == [None]
    (event,) = desk.notes.named("tolaria.hook_budget_exceeded")
    assert (event.data["hook"], event.data["budget_ms"], event.level) == ("decision", 0.0, "warning")
    assert event.data["elapsed_ms"] > 0


# -- state ---------------------------------------------------------------------------------------


def test_limits_outlive_a_checkpoint() -> None:
    desk = make_desk(adaptation_cooldown_epochs=2, max_adaptations_per_epoch=2)
    desk.decide(plant(1), tell(PAUSE, number=2, pause_epochs=5), epoch=4)
    other = make_desk(adaptation_cooldown_epochs=2, max_adaptations_per_epoch=2)
    other.loop.load_state_dict(desk.loop.state_dict())
    assert other.loop.counts == {"proposed": 2, "applied": 2, "refused": 0}
    assert len(other.policy.outcomes) == 2
    assert other.decide(plant(1), epoch=4) == [Refusal.DUPLICATE]
    assert other.decide(plant(3), epoch=4) == [Refusal.CAP]
    assert other.decide(plant(3), epoch=5) == [Refusal.COOLDOWN]
    assert other.decide(plant(3), epoch=6) == [Refusal.PAUSED]
    assert other.decide(plant(3), epoch=9) == [None]

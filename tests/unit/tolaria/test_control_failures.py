"""Nobody's failure is the run's, and what fails half-way is undone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers.controller import ScriptedPolicy, germination, make_controller
from helpers.grown import make_host
from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.kasmina import Cost, SiteShape, TrainingPosition, register_blueprint
from esper.kasmina.blueprints import registry
from esper.leyline import Outcome, Refusal, SeedStage
from esper.tolaria.optimization.optimizer_manager import OptimizerManager


@pytest.fixture(autouse=True)
def same_blueprints_after() -> Iterator[None]:
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


class Raises(ScriptedPolicy):
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
    setup = make_controller(policy=Raises(where))
    setup.decide(germination(1))
    (event,) = setup.notes.named("tolaria.tamiyo_error")
    assert "a bug of the user's" in event.data["reason"]
    assert event.level == "error"
    setup.policy.where = ""  # type: ignore[attr-defined]
    assert setup.decide(germination(2, slot=1)) == [None]


@pytest.mark.parametrize("answer", [[None], ["germinate"], [germination(1), 5]])
def test_a_policy_that_gives_no_commands_is_reported(answer: list[Any]) -> None:
    setup = make_controller()
    assert setup.decide(*answer) == []
    assert "expected AdaptationCommand" in setup.notes.named("tolaria.tamiyo_error")[0].data["reason"]


@pytest.mark.parametrize("where", ["state_dict", "load_state_dict"])
def test_a_policy_without_its_memory_is_a_checkpoint_error(where: str) -> None:
    setup = make_controller()
    state = setup.loop.state_dict()
    setup.loop.tamiyo = Raises(where)
    with pytest.raises(CheckpointError, match="a bug of the user's"):
        setup.loop.state_dict() if where == "state_dict" else setup.loop.load_state_dict(state)


class Fragile(nn.Module):
    """A blueprint's module that raises a given exception in its forward."""

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

    setup = make_controller()
    before = copy.deepcopy(setup.grown.model.topology())
    name = register(f"fragile_{where}_{error.__name__}", make)
    (refusal,) = setup.decide(germination(1, blueprint=name))
    assert refusal in (Refusal.GATE, Refusal.INVALID)
    assert "a blueprint of the user's" in setup.refusals()[0]["detail"]
    assert "a blueprint of the user's" in setup.notes.named("tolaria.kasmina_error")[0].data["reason"]
    assert setup.grown.model.topology() == before
    assert list(setup.grown.model.seeds) == []
    assert not setup.grown.model.host.get_submodule("a")._forward_hooks
    assert setup.decide(germination(2)) == [None]


class Odd(nn.Module):
    """A blueprint's module that does `act` with its input."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x * self.weight)


@pytest.mark.parametrize(
    ("name", "act", "message"),
    [
        ("nan", lambda x: x * torch.nan, "NaN or infinite"),
        ("first", lambda x: x[:1], "of 3 samples"),  # broadcasting would hide it
        ("narrow", lambda x: x[:, :5], "(5,) is not the layer's (12,)"),
        ("single", lambda x: x.view(12), "fails on shape"),
    ],
)
def test_a_blueprint_whose_module_would_spoil_the_host_is_refused(
    name: str, act: Callable[[Tensor], Tensor], message: str
) -> None:
    """Alpha 0 times NaN is NaN, so it must not even be born."""
    setup = make_controller()
    assert setup.decide(germination(1, blueprint=register(f"odd_{name}", lambda: Odd(act)))) == [Refusal.GATE]
    assert message in setup.refusals()[0]["detail"]
    assert list(setup.grown.model.seeds) == []


class Stubborn(torch.optim.SGD):
    """An optimiser that accepts no further groups while a flag is set."""

    stubborn = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.stubborn:
            raise ArithmeticError("no more groups")
        super().add_param_group(param_group)


def stubborn(manager: OptimizerManager, yes: bool) -> None:
    assert isinstance(manager.main, Stubborn)
    manager.main.stubborn = yes


def test_an_optimiser_that_raises_undoes_the_seed_and_the_command() -> None:
    setup = make_controller(grown=make_host(factory=lambda groups: Stubborn(groups, lr=0.1)))
    stubborn(setup.grown.optimizers, True)
    before = copy.deepcopy(setup.grown.model.topology())
    assert setup.decide(germination(1)) == [Refusal.INVALID]
    assert "ArithmeticError: no more groups" in setup.refusals()[0]["detail"]
    assert setup.grown.model.topology() == before
    assert setup.structural == []
    assert setup.notes.named("seed_stage") == []  # nothing happened, so nothing is logged
    stubborn(setup.grown.optimizers, False)
    assert setup.decide(germination(1)) == [None]


def test_an_optimiser_that_raises_when_a_seed_joins_leaves_it_where_it_was() -> None:
    setup = make_controller(
        grown=make_host(factory=lambda groups: Stubborn(groups, lr=0.1), isolation_steps=2)
    )
    setup.decide(germination(1), step=0)
    stubborn(setup.grown.optimizers, True)
    setup.loop.advance(TrainingPosition(5, 1))
    record = setup.grown.model.record("a", 0)
    assert record.stage is SeedStage.TRAINING
    assert list(setup.grown.optimizers.isolated) == [record.key]
    assert len(setup.notes.named("tolaria.kasmina_error")) == 1
    stubborn(setup.grown.optimizers, False)
    setup.loop.advance(TrainingPosition(5, 1))
    assert record.stage is SeedStage.BLENDING
    assert setup.grown.optimizers.isolated == {}


def test_over_its_budget_is_an_event_and_no_more() -> None:
    setup = make_controller(hook_budget_ms=0.0)
    assert setup.decide(germination(1)) == [None]
    (event,) = setup.notes.named("tolaria.hook_budget_exceeded")
    assert (event.data["hook"], event.data["budget_ms"], event.level) == ("decision", 0.0, "warning")
    assert event.data["elapsed_ms"] > 0


def test_an_optimiser_that_goes_on_failing_holds_growth_back() -> None:
    """The breaker opens, commands to grow are refused with the reason, and it recovers by itself."""
    setup = make_controller(grown=make_host(factory=lambda groups: Stubborn(groups, lr=0.1)))
    optimizers = setup.grown.optimizers
    stubborn(optimizers, True)
    for number in range(3):
        assert setup.decide(germination(number), step=10) == [Refusal.INVALID]
    stubborn(optimizers, False)
    assert setup.decide(germination(4), step=10) == [Refusal.BREAKER]
    assert "could not be updated after 3 of the last 3 changes" in setup.refusals()[-1]["detail"]
    later = 10 + optimizers.rebuilds.recovery_steps
    assert setup.decide(germination(4), step=later) == [None]
    assert setup.decide(germination(5, slot=1), step=later + 1) == [None]
    assert (optimizers.rebuilds.total, optimizers.rebuilds.failures) == (2, 3)

"""The optimisers after long random sequences of germinations, culls and fossilisations."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.grown import Grown, adam, make_host
from helpers.runs import germinate, seed_command
from torch import Tensor, nn

from esper.errors import CheckpointError, ConfigError
from esper.kasmina import TrainingPosition
from esper.leyline import CommandKind, Impact, SeedStage
from esper.tolaria.optimization.optimizer_manager import OptimizerManager


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)


def momentum(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.001, momentum=0.9)  # slow: NaN equals nothing


FOSSILS = 2  # each takes one of the four slots for good


class RandomChanges:
    """Random changes of a small host, with invariants that are checked after each of them."""

    def __init__(self, factory: Callable[..., torch.optim.Optimizer], seed: int) -> None:
        self.random = random.Random(seed)
        self.grown = make_host(
            factory=factory, isolation_steps=1, blend_steps=1, probation_epochs=0, embargo_epochs=0
        )
        self.number = 0

    # -- events ----------------------------------------------------------------------------------

    def event(self) -> str:
        """Makes a random change that is possible now; returns its kind."""
        self.number += 1
        model = self.grown.model
        slots = [record for row in model.records.values() for record in row]
        chosen = self.random.choice(["graft", "graft", "cull", "fossilize"])
        fossils = [record for record in slots if record.stage is SeedStage.FOSSILIZED]
        wanted = {
            "graft": [r for r in slots if r.stage is SeedStage.DORMANT],
            "cull": [r for r in slots if r.alive and r.stage is not SeedStage.FOSSILIZED],
            "fossilize": [r for r in slots if r.stage is SeedStage.PROBATIONARY and len(fossils) < FOSSILS],
        }[chosen]
        if not wanted:
            return "nothing"
        record = self.random.choice(wanted)
        record.impact = Impact(0.1, 0.01, 0.0, 100)
        command = {
            "graft": germinate(record.layer, "low_rank", number=self.number, seed_index=record.index),
            "cull": seed_command(CommandKind.CULL, record.layer, number=self.number, seed_index=record.index),
            "fossilize": seed_command(
                CommandKind.FOSSILIZE, record.layer, number=self.number, seed_index=record.index
            ),
        }[chosen]
        self.grown.do(command, self.number, self.number)
        self.embargo_culled()
        return chosen

    def embargo_culled(self) -> None:
        for record in [r for row in self.grown.model.records.values() for r in row]:
            if record.stage is SeedStage.CULLED:
                self.grown.seeds.embargo(record, 0, TrainingPosition(self.number, self.number))

    def checked_event(self) -> str:
        """Makes a random change; whatever survives it keeps its state and options."""
        before, groups = states(self.grown.optimizers), by_first(self.grown.optimizers)
        what = self.event()
        self.check_optimised_is_trainable()
        after, now = states(self.grown.optimizers), by_first(self.grown.optimizers)
        assert all(alike(before[key], after[key]) for key in before.keys() & after.keys())
        assert all(groups[key] == now[key] for key in groups.keys() & now.keys())
        return what

    # -- invariants ------------------------------------------------------------------------------

    def check_optimised_is_trainable(self) -> None:
        held = [id(p) for p in self.grown.optimizers.parameters()]
        assert len(held) == len(set(held))
        assert set(held) == {id(p) for p in self.grown.model.parameters() if p.requires_grad}
        assert {id(p) for o in all_optimizers(self.grown.optimizers) for p in o.state} <= set(held)


def all_optimizers(optimizers: OptimizerManager) -> list[torch.optim.Optimizer]:
    return [optimizers.main, *optimizers.isolated.values()]


def states(optimizers: OptimizerManager) -> dict[Tensor, dict[str, Any]]:
    """Copies, by the parameter itself: its id may be reused after it is freed."""
    return {
        p: {key: v.clone() if isinstance(v, Tensor) else v for key, v in entries.items()}
        for o in all_optimizers(optimizers)
        for p, entries in o.state.items()
    }


def options(optimizers: OptimizerManager) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in group.items() if key not in ("params", "name")}
        for group in optimizers.main.param_groups
    ]


def by_first(optimizers: OptimizerManager) -> dict[Tensor, dict[str, Any]]:
    return {
        group["params"][0]: {key: value for key, value in group.items() if key != "params"}
        for group in optimizers.main.param_groups
    }


def alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )


def live_tensors() -> int:
    gc.collect()
    # by type: isinstance asks some modules' lazy objects for their class, and they warn
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def owned(grown: Grown) -> int:
    tensors = [*grown.model.parameters(), *grown.model.buffers()]
    for optimizer in all_optimizers(grown.optimizers):
        tensors += [
            t for entries in optimizer.state.values() for t in entries.values() if isinstance(t, Tensor)
        ]
    return len(tensors)


@pytest.mark.parametrize("factory", [adam, adamw, momentum])
def test_two_hundred_random_grafts_and_culls(factory: Callable[..., torch.optim.Optimizer]) -> None:
    """Optimiser parameters are the trainable ones, surviving state is bit-equal, options are kept."""
    changes = RandomChanges(factory, seed=1)
    changes.grown.train_step()
    happened: dict[str, int] = {}
    spare = live_tensors() - owned(changes.grown)
    for _ in range(2000):
        if sum(happened.get(what, 0) for what in ("graft", "cull")) == 200:
            break
        what = changes.checked_event()
        happened[what] = happened.get(what, 0) + 1
        if what != "nothing":
            changes.grown.train_step(changes.number)
            changes.grown.advance(changes.number, changes.number)
            changes.check_optimised_is_trainable()
    assert happened["fossilize"] == FOSSILS
    assert happened["graft"] > 50
    assert happened["cull"] > 50
    assert all(torch.isfinite(p).all() for p in changes.grown.model.parameters())
    # memory is flat: not one tensor is alive that neither the model nor its optimisers own
    assert live_tensors() - owned(changes.grown) <= spare


# -- counts --------------------------------------------------------------------------------


def test_followed_skipped_and_failed_changes_are_counted() -> None:
    grown = make_host()
    grown.do(germinate("a", "mlp"))
    assert (grown.optimizers.rebuilds.total, grown.optimizers.rebuilds.skipped) == (1, 0)
    grown.advance(1)  # nothing is due
    assert (grown.optimizers.rebuilds.total, grown.optimizers.rebuilds.skipped) == (1, 1)
    assert grown.optimizers.rebuilds.latency_ms > 0


# -- mismatches --------------------------------------------------------------------------------


class Rateless(torch.optim.Optimizer):
    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {"speed": 1.0})


def test_an_optimiser_without_a_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Rateless.*have lr"):
        make_host(factory=Rateless)


def with_seeds() -> Grown:
    grown = make_host(factory=adam, isolation_steps=2)
    grown.do(germinate("a", "mlp"), 0)
    for step in range(3):
        grown.train_step(step)
        grown.advance(step + 1)
    grown.do(germinate("b", "mlp", number=2), 3)
    grown.train_step(3)
    return grown


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda saved: saved.pop("main"), "none for the host"),
        (lambda saved: saved.pop("b#0"), "held by none of them, or by two: seeds.b#0"),
        (lambda saved: saved["main"]["meta"].pop("state"), "damaged|not whole"),
        (lambda saved: saved["main"]["tensors"].popitem(), "missing"),
        (lambda saved: saved["main"]["meta"]["groups"].pop(), "does not hold: seeds.a#0"),
        (lambda saved: saved.update(main=3), "damaged"),
        (
            lambda saved: saved["main"]["meta"]["groups"].append({"params": ["host.a.weight"]}),
            "host.a.weight|dama",
        ),
    ],
)
def test_state_that_does_not_fit_is_an_error_and_no_fresh_start(damage: Any, message: str) -> None:
    """The optimisers are unchanged, with all their state."""
    grown = with_seeds()
    saved = copy.deepcopy(grown.optimizers.state_dict())
    damage(saved)
    before, held = states(grown.optimizers), [id(p) for p in grown.optimizers.parameters()]
    with pytest.raises(CheckpointError, match=message):
        grown.optimizers.load_state_dict(saved)
    assert [id(p) for p in grown.optimizers.parameters()] == held
    assert all(alike(before[key], now) for key, now in states(grown.optimizers).items())


def test_optimisers_that_do_not_match_the_model_any_more_start_without_state() -> None:
    """With strict_loading=false a run continues after that: it must train all parameters of the model."""
    grown = with_seeds()
    saved = copy.deepcopy(grown.optimizers.state_dict())
    saved["main"]["tensors"].popitem()
    other = make_host(factory=adam)
    other.model.load_state_dict(grown.model.state_dict())
    with pytest.raises(CheckpointError, match="start without state"):
        other.optimizers.load_state_dict(saved)
    held = {id(p) for p in other.optimizers.parameters()}
    assert held == {id(p) for p in other.model.parameters()}
    assert set(other.optimizers.isolated) == {"b#0"}


def test_a_restored_optimiser_goes_on_as_the_old_one_would() -> None:
    grown = with_seeds()
    saved, weights = copy.deepcopy(grown.optimizers.state_dict()), copy.deepcopy(grown.model.state_dict())
    grown.train_step(9)
    after: dict[str, Tensor] = {n: p.detach().clone() for n, p in grown.model.named_parameters()}
    grown.model.load_state_dict(weights)
    grown.optimizers.load_state_dict(saved)
    nn.Module.train(grown.model)
    grown.train_step(9)
    now = dict(grown.model.named_parameters())
    assert all(torch.equal(now[name], tensor) for name, tensor in after.items())

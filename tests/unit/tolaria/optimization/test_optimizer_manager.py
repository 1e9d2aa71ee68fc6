"""Exactly the trainable parameters are optimised after every event, and nothing else has changed."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.grown import Grown, Host, adam, make_host, sgd
from helpers.runs import germinate, seed_command
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointError, GrowthError
from esper.kasmina import TrainingPosition
from esper.leyline import CommandKind, Impact, SeedStage
from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerManager


def attach_seed(grown: Grown, layer: str = "a", number: int = 1, slot: int = 0, step: int = 0) -> str:
    grown.do(germinate(layer, "mlp", number=number, seed_index=slot), step=step)
    return grown.model.record(layer, slot).key


def check_that_optimised_is_trainable(grown: Grown) -> None:
    optimised = [id(p) for p in grown.optimizers.parameters()]
    assert len(optimised) == len(set(optimised))
    assert set(optimised) == {id(p) for p in grown.model.parameters() if p.requires_grad}
    held = (grown.optimizers.main, *grown.optimizers.isolated.values())
    assert {id(p) for o in held for p in o.state} <= set(optimised)


def host_state(grown: Grown) -> dict[str, Any]:
    """Values and optimiser state of the host's parameters."""
    state = grown.optimizers.main.state
    return {
        name: (p.detach().clone(), copy.deepcopy(state.get(p, {})))
        for name, p in grown.model.host.named_parameters()
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def names(optimizer: torch.optim.Optimizer) -> list[str]:
    return [group["name"] for group in optimizer.param_groups]


@pytest.mark.parametrize("factory", [sgd, adam])
@pytest.mark.parametrize("isolation_steps", [0, 2])
def test_every_event(factory: Any, isolation_steps: int) -> None:
    """After each event optimiser = trainable parameters, host state unchanged."""
    grown = make_host(factory=factory, isolation_steps=isolation_steps, probation_epochs=0)
    for step in range(3):
        grown.train_step(step)
    attach_seed(grown, "a", number=1, step=3)
    attach_seed(grown, "b", number=2, step=3)
    for step in range(3, 12):
        check_that_optimised_is_trainable(grown)
        before = host_state(grown)
        grown.advance(step, epoch=step)
        assert equal(host_state(grown), before)
        check_that_optimised_is_trainable(grown)
        grown.train_step(step)
    first, second = grown.model.record("a", 0), grown.model.record("b", 0)
    assert first.stage is second.stage is SeedStage.PROBATIONARY
    before = host_state(grown)
    first.impact = Impact(0.1, 0.01, 0.0, 100)
    grown.do(seed_command(CommandKind.FOSSILIZE, "a", number=3), 12, 12)
    grown.do(seed_command(CommandKind.CULL, "b", number=4), 12, 12)
    assert equal(host_state(grown), before)
    check_that_optimised_is_trainable(grown)
    assert names(grown.optimizers.main) == ["host", first.key]


def test_groups_have_their_own_options() -> None:
    grown = make_host()
    key = attach_seed(grown, step=7)
    host, seed = grown.optimizers.main.param_groups
    assert (host["name"], host["base_lr"]) == ("host", 0.1)
    assert (seed["name"], seed["base_lr"], seed["born_step"], seed["warmup_steps"]) == (key, 0.05, 7, 2)
    assert seed["momentum"] == host["momentum"] == 0.9


def test_an_isolated_seed_has_an_optimiser_of_its_own_and_brings_its_state_along() -> None:
    grown = make_host(isolation_steps=3, factory=adam)
    key = attach_seed(grown)
    assert names(grown.optimizers.main) == ["host"]
    for step in range(3):
        grown.train_step(step)
    alone = grown.optimizers.isolated[key]
    assert alone.param_groups[0]["lr"] == 0.02
    params = [p for p in grown.model.seed_module(grown.model.record("a", 0)).parameters() if p in alone.state]
    assert params
    state = {p: dict(alone.state[p]) for p in params}
    grown.advance(3)
    assert grown.optimizers.isolated == {}
    for p in params:
        assert all(grown.optimizers.main.state[p][key] is value for key, value in state[p].items())


def test_what_is_clipped_together_is_the_host_and_the_joined_seeds() -> None:
    grown = make_host(isolation_steps=3)
    attach_seed(grown)
    host = {id(p) for p in grown.model.host.parameters()}
    assert {id(p) for p in grown.optimizers.shared_parameters()} == host
    grown.train_step()
    grown.advance(3)
    assert {id(p) for p in grown.optimizers.shared_parameters()} == {id(p) for p in grown.model.parameters()}


def test_a_culled_seed_leaves_no_entry() -> None:
    grown = make_host(factory=adam, blend_steps=0)
    attach_seed(grown)
    grown.train_step()
    seed = grown.model.seed_module(grown.model.record("a", 0))
    params = list(seed.parameters())
    assert grown.optimizers.entries(params) == 2 * len(params)  # a place in a group, and state
    grown.do(seed_command(CommandKind.CULL, "a", number=2), step=1)
    assert grown.optimizers.entries(params) == 0
    assert names(grown.optimizers.main) == ["host"]


def test_frozen_parameters_stay_frozen() -> None:
    def host() -> Host:
        made = Host()
        made.a.requires_grad_(False)
        return made

    grown = make_host(host=host)
    attach_seed(grown)
    check_that_optimised_is_trainable(grown)
    frozen = {id(p) for p in grown.model.host.get_submodule("a").parameters()}
    assert frozen.isdisjoint(id(p) for p in grown.optimizers.parameters())


class Stubborn(torch.optim.SGD):
    """An optimiser that accepts no further groups once a flag is set."""

    stubborn = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.stubborn:
            raise ArithmeticError("no more groups")
        super().add_param_group(param_group)


def test_where_the_optimiser_fails_both_are_as_they_were() -> None:
    """If either raises both are undone."""
    grown = make_host(factory=lambda groups: Stubborn(groups, lr=0.1))
    key = attach_seed(grown, "a", number=1)
    grown.train_step()
    main = grown.optimizers.main
    assert isinstance(main, Stubborn)
    main.stubborn = True
    groups, state = list(main.param_groups), dict(main.state)
    topology = copy.deepcopy(grown.model.topology())
    output = grown.model.eval()(torch.ones(2, 12))
    change = grown.seeds.apply(germinate("b", "mlp", number=2), TrainingPosition(1, 0))
    with pytest.raises(ArithmeticError):
        grown.optimizers.apply(change, 1)
    change.undo()
    assert main.param_groups == groups
    assert dict(main.state) == state
    assert grown.optimizers.isolated == {}
    assert grown.model.topology() == topology
    assert list(grown.model.seeds) == [key]
    assert torch.equal(grown.model(torch.ones(2, 12)), output)
    check_that_optimised_is_trainable(grown)
    main.stubborn = False
    attach_seed(grown, "b", number=3)  # and it can be tried again
    check_that_optimised_is_trainable(grown)


class Picky(torch.optim.SGD):
    """An optimiser that accepts a limited number of groups."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if len(self.param_groups) == 2:
            raise ArithmeticError("no room")
        super().add_param_group(param_group)


def test_where_the_second_of_two_seeds_fails_the_first_is_undone_too() -> None:
    grown = make_host(factory=lambda groups: Picky(groups, lr=0.1, momentum=0.9), isolation_steps=2)
    keys = [attach_seed(grown, "a", number=1), attach_seed(grown, "b", number=2)]
    grown.train_step()
    alone = dict(grown.optimizers.isolated)
    change = grown.seeds.advance(TrainingPosition(5, 1))
    assert len(change.activated) == 2
    with pytest.raises(ArithmeticError):
        grown.optimizers.apply(change, 5)
    change.undo()
    assert names(grown.optimizers.main) == ["host"]
    assert grown.optimizers.isolated == alone == {key: alone[key] for key in keys}
    assert all(r.stage is SeedStage.TRAINING for r in grown.model.alive_records())
    check_that_optimised_is_trainable(grown)


def test_a_move_into_probation_that_is_undone_blends_on() -> None:
    grown = make_host(isolation_steps=0, blend_steps=1)
    attach_seed(grown, "a")
    grown.train_step()
    change = grown.seeds.advance(TrainingPosition(1, 1))
    assert grown.model.record("a", 0).stage is SeedStage.PROBATIONARY
    change.undo()
    assert grown.model.record("a", 0).stage is SeedStage.BLENDING
    grown.advance(1, 1)
    assert grown.model.record("a", 0).stage is SeedStage.PROBATIONARY


@given(
    st.lists(st.sampled_from(["germinate", "cull", "step", "advance"]), max_size=14), st.sampled_from([0, 2])
)
@settings(max_examples=25)
def test_no_order_of_events_breaks_the_bond(events: list[str], isolation_steps: int) -> None:
    grown = make_host(isolation_steps=isolation_steps, blend_steps=2, embargo_epochs=1)
    for number, event in enumerate(events):
        layer, slot = "ab"[number % 2], number // 2 % 2
        try:
            if event == "germinate":
                attach_seed(grown, layer, number=number, slot=slot, step=number)
            elif event == "cull":
                grown.do(
                    replace(seed_command(CommandKind.CULL, layer, number=number), seed_index=slot),
                    number,
                    number,
                )
        except GrowthError:
            pass  # not every order is possible; none may break anything
        if event == "step":
            grown.train_step(number)
        elif event == "advance":
            grown.advance(number, number)
        check_that_optimised_is_trainable(grown)


# -- state ---------------------------------------------------------------------------------------


def copy_of(grown: Grown, factory: Any = adam) -> OptimizerManager:
    """A fresh manager for an equal model, seeds germinated."""
    model = copy.deepcopy(grown.model)
    return OptimizerManager(model, factory, rates=BaseRates(0.1, 0.05, 0.02, 2))


def half_grown() -> Grown:
    """One joined seed and one isolated, both with state."""
    grown = make_host(factory=adam, isolation_steps=2)
    attach_seed(grown, "a", number=1)
    for step in range(2):
        grown.train_step(step)
    grown.advance(2)
    attach_seed(grown, "b", number=2, step=2)
    grown.train_step(2)
    return grown


def test_state_goes_over_whole_and_by_name() -> None:
    grown = half_grown()
    saved = grown.optimizers.state_dict()
    assert saved.keys() == {"main", "b#0", "trainable"}
    other = copy_of(grown)
    other.load_state_dict(saved)
    again = other.state_dict()
    assert equal(again, saved)
    assert [list(map(id, g["params"])) for g in other.main.param_groups] == [
        [id(dict(other.model.named_parameters())[n]) for n in g["params"]]
        for g in saved["main"]["meta"]["groups"]
    ]


def test_state_of_parameters_that_are_not_there_is_refused() -> None:
    saved = half_grown().optimizers.state_dict()
    with pytest.raises(CheckpointError, match=r"seeds\.a#0"):
        make_host(factory=adam).optimizers.load_state_dict(saved)


def test_state_of_another_optimiser_is_refused() -> None:
    grown = half_grown()
    with pytest.raises(CheckpointError, match="Adam"):
        copy_of(grown, sgd).load_state_dict(grown.optimizers.state_dict())

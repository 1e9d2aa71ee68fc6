"""Optimisers through long random lives of grafts, culls and folds."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.grown import SHAPE, Grown, adam, make_host
from helpers.runs import germinate, tell
from torch import Tensor, nn

from esper.errors import CheckpointError, ConfigError, GrowthError
from esper.kasmina import MorphableModel, SeedManager, TrainingPosition, fold_with_names, wrap
from esper.leyline import CommandKind, Impact, SeedStage
from esper.tolaria.optimization.optimizer_manager import OptimizerManager


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)


def momentum(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.001, momentum=0.9)  # slow: NaN equals nothing


FOLDS = 4  # each makes the model larger for good


class Life:
    """Random events of a small host, with what has to hold after each of them."""

    def __init__(self, factory: Callable[..., torch.optim.Optimizer], seed: int) -> None:
        self.random = random.Random(seed)
        self.grown = make_host(
            factory=factory, isolation_steps=1, blend_steps=1, probation_epochs=0, embargo_epochs=0
        )
        self.number = 0
        self.folds = 0

    # -- events ----------------------------------------------------------------------------------

    def event(self) -> str:
        """Something that is possible now; returns what."""
        self.number += 1
        model = self.grown.model
        slots = [record for row in model.records.values() for record in row]
        chosen = self.random.choice(["graft", "graft", "cull", "fossilize", "fold"])
        if chosen == "fold":
            return self.fold()
        wanted = {
            "graft": [r for r in slots if r.stage is SeedStage.DORMANT],
            "cull": [r for r in slots if r.alive and r.stage is not SeedStage.FOSSILIZED],
            # what cannot be folded any more would stay in its slot for good
            "fossilize": [r for r in slots if r.stage is SeedStage.PROBATIONARY and self.folds < FOLDS],
        }[chosen]
        if not wanted:
            return "nothing"
        record = self.random.choice(wanted)
        record.impact = Impact(0.1, 0.01, 0.0, 100)
        command = {
            "graft": germinate(record.layer, "low_rank", number=self.number, seed_index=record.index),
            "cull": tell(CommandKind.CULL, record.layer, number=self.number, seed_index=record.index),
            "fossilize": tell(
                CommandKind.FOSSILIZE, record.layer, number=self.number, seed_index=record.index
            ),
        }[chosen]
        self.grown.do(command, self.number, self.number)
        self.bury()
        return chosen

    def bury(self) -> None:
        for record in [r for row in self.grown.model.records.values() for r in row]:
            if record.stage is SeedStage.CULLED:
                self.grown.seeds.embargo(record, 0, TrainingPosition(self.number, self.number))

    def clear(self) -> None:
        """Cull what is not fossilised; a blend that is turned back takes a step or two."""
        for record in self.grown.model.alive_records():
            if record.stage is not SeedStage.FOSSILIZED:
                self.grown.do(
                    tell(CommandKind.CULL, record.layer, number=-self.number - 1, seed_index=record.index),
                    self.number,
                    self.number,
                )
        for _ in range(3):
            self.grown.train_step(self.number)
            self.grown.advance(self.number, self.number)
        self.bury()

    def fold(self) -> str:
        """In the middle of training: the plain model is made growable again, the optimisers go along."""
        fossils = [r for r in self.grown.model.alive_records() if r.stage is SeedStage.FOSSILIZED]
        if self.folds == FOLDS or not fossils:
            return "nothing"
        self.clear()
        before, groups = states(self.grown.optimizers), options(self.grown.optimizers)
        host, names = fold_with_names(self.grown.model)
        folded = wrap(host, ["a", "b"], 2, preserve_original=False)
        folded.observe(torch.zeros(2, *SHAPE))
        old = dict(self.grown.model.named_parameters())
        self.grown.optimizers.follow_fold(folded, names, self.number)
        new = dict(host.named_parameters())
        after = states(self.grown.optimizers)
        assert {id(new[names[n]]) for n in names} == {id(p) for p in self.grown.optimizers.parameters()}
        for name, place in names.items():
            assert torch.equal(old[name], new[place])
            assert alike(before.get(old[name], {}), after.get(new[place], {}))
        assert options(self.grown.optimizers) == groups
        seeds = SeedManager(folded, self.grown.seeds.config)
        self.grown = Grown(folded, seeds, self.grown.optimizers)
        self.folds += 1
        return "fold"

    def checked_event(self) -> str:
        """An event; nothing that survives it has lost or changed anything."""
        before, groups = states(self.grown.optimizers), by_first(self.grown.optimizers)
        what = self.event()
        self.check_optimised_is_trainable()
        if what != "fold":  # which has its own checks
            after, now = states(self.grown.optimizers), by_first(self.grown.optimizers)
            assert all(alike(before[key], after[key]) for key in before.keys() & after.keys())
            assert all(groups[key] == now[key] for key in groups.keys() & now.keys())
        return what

    # -- what holds ------------------------------------------------------------------------------

    def check_optimised_is_trainable(self) -> None:
        held = [id(p) for p in self.grown.optimizers.parameters()]
        assert len(held) == len(set(held))
        assert set(held) == {id(p) for p in self.grown.model.parameters() if p.requires_grad}
        assert {id(p) for o in everyone(self.grown.optimizers) for p in o.state} <= set(held)


def everyone(optimizers: OptimizerManager) -> list[torch.optim.Optimizer]:
    return [optimizers.main, *optimizers.isolated.values()]


def states(optimizers: OptimizerManager) -> dict[Tensor, dict[str, Any]]:
    """Copies, by the parameter itself: its number may be another's when it is gone."""
    return {
        p: {key: v.clone() if isinstance(v, Tensor) else v for key, v in entries.items()}
        for o in everyone(optimizers)
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
    for optimizer in everyone(grown.optimizers):
        tensors += [
            t for entries in optimizer.state.values() for t in entries.values() if isinstance(t, Tensor)
        ]
    return len(tensors)


@pytest.mark.parametrize("factory", [adam, adamw, momentum])
def test_two_hundred_random_grafts_culls_and_folds(factory: Callable[..., torch.optim.Optimizer]) -> None:
    """Optimiser parameters are the trainable ones, surviving state is bit-equal, options are kept."""
    life = Life(factory, seed=1)
    life.grown.train_step()
    happened: dict[str, int] = {}
    spare = live_tensors() - owned(life.grown)
    for _ in range(2000):
        if sum(happened.get(what, 0) for what in ("graft", "cull", "fold")) == 200:
            break
        what = life.checked_event()
        happened[what] = happened.get(what, 0) + 1
        if what != "nothing":
            life.grown.train_step(life.number)
            life.grown.advance(life.number, life.number)
            life.check_optimised_is_trainable()
    assert happened["fold"] == FOLDS
    assert happened["graft"] > 50
    assert happened["cull"] > 50
    assert all(torch.isfinite(p).all() for p in life.grown.model.parameters())
    # memory is flat: not one tensor is alive that neither the model nor its optimisers own
    assert live_tensors() - owned(life.grown) <= spare


# -- folding --------------------------------------------------------------------------------------


def fossilised() -> Grown:
    grown = make_host(factory=adam, blend_steps=0, probation_epochs=0)
    grown.do(germinate("a", "mlp"), 1)
    grown.train_step()
    record = grown.model.record("a", 0)
    record.impact = Impact(0.1, 0.01, 0.0, 100)
    grown.do(tell(CommandKind.FOSSILIZE, "a", number=2), 1, 1)
    return grown


def refold(grown: Grown) -> tuple[MorphableModel, dict[str, str]]:
    host, names = fold_with_names(grown.model)
    folded = wrap(host, ["a", "b"], 2, preserve_original=False)
    folded.observe(torch.zeros(2, *SHAPE))
    return folded, names


def test_a_folded_seed_keeps_its_options_and_leaves_its_slot_to_another() -> None:
    """The slot's name is free: a cull of the next seed there does not take the folded one's group."""
    grown = fossilised()
    folded, names = refold(grown)
    grown.optimizers.follow_fold(folded, names, 5)
    grown = Grown(folded, SeedManager(folded, grown.seeds.config), grown.optimizers)
    assert [g["name"] for g in grown.optimizers.main.param_groups] == ["host", "folded a#0"]
    assert grown.optimizers.main.param_groups[1]["base_lr"] == 0.05
    grown.do(germinate("a", "mlp", number=3), 6)
    grown.train_step()
    grown.do(tell(CommandKind.CULL, "a", number=4), 7, 7)
    assert [g["name"] for g in grown.optimizers.main.param_groups] == ["host", "folded a#0"]
    held = {id(p) for p in grown.optimizers.parameters()}
    assert held == {id(p) for p in folded.parameters()}


def test_a_folded_models_state_is_saved_and_restored_with_its_groups() -> None:
    grown = fossilised()
    folded, names = refold(grown)
    grown.optimizers.follow_fold(folded, names, 5)
    saved = copy.deepcopy(grown.optimizers.state_dict())
    fresh = OptimizerManager(folded, adam, lr=0.1, seed_lr=0.05, isolation_lr=0.02, warmup_steps=2)
    assert len(fresh.main.param_groups) == 1
    fresh.load_state_dict(saved)
    assert options(fresh) == options(grown.optimizers)
    assert all(
        alike(a, b) for a, b in zip(states(fresh).values(), states(grown.optimizers).values(), strict=True)
    )


def test_a_fold_that_would_leave_something_behind_is_refused_and_changes_nothing() -> None:
    grown = fossilised()
    folded, names = refold(grown)
    before, held = states(grown.optimizers), [id(p) for p in grown.optimizers.parameters()]
    with pytest.raises(GrowthError, match="exactly the parameters that are optimised"):
        grown.optimizers.follow_fold(folded, dict(list(names.items())[:-1]), 5)
    assert [id(p) for p in grown.optimizers.parameters()] == held
    assert states(grown.optimizers).keys() == before.keys()
    assert grown.optimizers.rebuilds.failures == 1


# -- what is counted --------------------------------------------------------------------------------


def test_followed_skipped_and_failed_changes_are_counted() -> None:
    grown = make_host()
    grown.do(germinate("a", "mlp"))
    assert (grown.optimizers.rebuilds.total, grown.optimizers.rebuilds.skipped) == (1, 0)
    grown.advance(1)  # nothing is due
    assert (grown.optimizers.rebuilds.total, grown.optimizers.rebuilds.skipped) == (1, 1)
    assert grown.optimizers.rebuilds.latency_ms > 0


# -- what does not fit --------------------------------------------------------------------------------


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
    ("damage", "said"),
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
def test_state_that_does_not_fit_is_an_error_and_no_fresh_start(damage: Any, said: str) -> None:
    """The optimisers are as they were, with all they hold."""
    grown = with_seeds()
    saved = copy.deepcopy(grown.optimizers.state_dict())
    damage(saved)
    before, held = states(grown.optimizers), [id(p) for p in grown.optimizers.parameters()]
    with pytest.raises(CheckpointError, match=said):
        grown.optimizers.load_state_dict(saved)
    assert [id(p) for p in grown.optimizers.parameters()] == held
    assert all(alike(before[key], now) for key, now in states(grown.optimizers).items())


def test_where_the_old_ones_fit_no_more_they_begin_anew_and_say_so() -> None:
    """With strict_loading=false a run goes on after that: it has to train what the model has."""
    grown = with_seeds()
    saved = copy.deepcopy(grown.optimizers.state_dict())
    saved["main"]["tensors"].popitem()
    other = make_host(factory=adam)
    other.model.load_state_dict(grown.model.state_dict())
    with pytest.raises(CheckpointError, match="begin anew"):
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

"""What happens to the seeds at the end of an epoch and inside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Notes, PlannedPolicy, germinate, make_run, notes_of, same, seed_command, weights
from torch import Tensor, nn

from esper.kasmina.blueprints import registry
from esper.leyline import CommandKind, SeedStage
from esper.tolaria.loop import TrainingLoop

GROWING = {"morphogenetic__max_params_ratio": 99.0, "optimization__max_epochs": 4}


def trained(run_dir: Path, plan: PlannedPolicy, **options: Any) -> TrainingLoop:
    run = make_run(run_dir, tamiyo=plan, **GROWING | options)
    run.train()
    return run


def names(notes: Notes, epoch: int) -> list[str]:
    return [event.name for event in notes.events if event.epoch == epoch]


def test_the_order_of_an_epochs_end(tmp_path: Path) -> None:
    """Gates, health, impact, decisions, then the checkpoint."""
    plan = PlannedPolicy({1: [germinate()], 3: [seed_command(CommandKind.CULL, number=2)]})
    run = trained(tmp_path, plan, checkpoint__save_checkpoints=True, checkpoint__checkpoint_frequency=1)
    logged = "tolaria.grad_agg.seeds"  # every 16th step is looked at: none of epoch 3 is
    assert names(notes_of(run), 2) == ["seed_stage", "seed_health", logged, "checkpoint_saved"]
    assert names(notes_of(run), 3) == [
        "seed_health",
        "seed_impact",
        "tolaria.opt.rebuilt",
        "seed_stage",
        "seed_stage",
        "topology_changed",
        "adaptation_applied",
        "checkpoint_saved",
    ]
    assert all(record["epoch"] == number for number, record in enumerate(notes_of(run).epochs, 1))


@pytest.mark.parametrize(("frequency", "epochs"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), (9, [])])
def test_decisions_come_at_their_frequency(tmp_path: Path, frequency: int, epochs: list[int]) -> None:
    plan = PlannedPolicy()
    trained(tmp_path, plan, morphogenetic__decision_frequency=frequency)
    assert [packet.epoch for packet in plan.packets] == epochs


def test_decisions_inside_an_epoch(tmp_path: Path) -> None:
    plan = PlannedPolicy()
    trained(tmp_path, plan, morphogenetic__decision_frequency=9, morphogenetic__decision_interval_steps=4)
    # of 24 steps in epochs of six; 12 and 24 are ends of epochs, which have a rhythm of their own
    assert [(packet.epoch, packet.step) for packet in plan.packets] == [(0, 4), (1, 8), (2, 16), (3, 20)]
    assert plan.packets[0].val_loss_history == ()
    assert plan.packets[0].train_loss > 0


def test_the_cap_counts_decisions_inside_an_epoch_and_at_its_end_together(tmp_path: Path) -> None:
    class Eager(PlannedPolicy):
        def decide(self, packet: Any) -> list[Any]:
            super().decide(packet)
            slots = [(s.layer, i) for s in packet.sites for i in s.free_slots]
            return [
                germinate(layer, number=1000 * packet.step + slot, seed_index=slot)
                for layer, slot in slots[:1]
            ]

    plan = Eager()
    run = trained(
        tmp_path,
        plan,
        morphogenetic__decision_interval_steps=2,
        morphogenetic__max_adaptations_per_epoch=1,
        optimization__max_epochs=1,
    )
    assert [(o.step, o.applied) for o in plan.outcomes] == [(2, True), (4, False), (6, False)]
    assert run.growth is not None
    assert run.growth.controller.counts == {"proposed": 3, "applied": 1, "refused": 2}


class AtStep(PlannedPolicy):
    """A plan by optimiser steps."""

    def decide(self, packet: Any) -> list[Any]:
        self.packets.append(packet)
        return list(self.commands.get(packet.step, ()))


def test_a_culled_blend_turns_back_and_is_gone_at_the_step_it_comes_to_nothing(tmp_path: Path) -> None:
    """A blend is reversed inside BLENDING and ends in CULLED; also between two decisions."""
    plan = AtStep({4: [germinate()], 8: [seed_command(CommandKind.CULL, number=2)]})
    run = trained(
        tmp_path, plan, morphogenetic__decision_interval_steps=4, morphogenetic__seed__blend_steps=10
    )
    moves = [(e.step, e.data["to"]) for e in notes_of(run).named("seed_stage")]
    up = 8 - 4
    assert moves[3:] == [(8, "blending"), (8 + up, "culled"), (8 + up, "embargoed")]
    plan = AtStep({4: [germinate()], 8: [seed_command(CommandKind.CULL, number=2)]})
    run = trained(
        tmp_path, plan, morphogenetic__decision_interval_steps=2, morphogenetic__seed__blend_steps=10
    )
    assert notes_of(run).named("seed_stage")[-1].step == 12
    assert 12 in [packet.step for packet in plan.packets]  # and it is decided on at once


def test_health_is_taken_at_its_interval(tmp_path: Path) -> None:
    plan = PlannedPolicy({1: [germinate()]})
    run = trained(tmp_path, plan, morphogenetic__health_signal_interval=3)
    assert [event.epoch for event in notes_of(run).named("seed_health")] == [3]
    assert [any(site.health for site in packet.sites) for packet in plan.packets] == [
        False,
        False,
        True,
        True,
    ]
    assert plan.packets[2].seeds[0].health is not None


def test_no_health_without_telemetry(tmp_path: Path) -> None:
    plan = PlannedPolicy({1: [germinate()]})
    run = make_run(tmp_path, tamiyo=plan, **GROWING)
    run.model.telemetry_enabled = False
    quiet = TrainingLoop(run.config, run.components)
    quiet.train()
    assert notes_of(quiet).named("seed_health") == []
    assert plan.packets[-1].seeds[0].health is None


@pytest.mark.parametrize("probation", [0, 1, 2])
def test_impact_is_measured_when_probation_is_over(tmp_path: Path, probation: int) -> None:
    plan = PlannedPolicy({1: [germinate()]})
    run = trained(tmp_path, plan, morphogenetic__seed__probation_epochs=probation)
    begun = 2  # four steps of blending after epoch 1
    events = notes_of(run).named("seed_impact")
    assert [event.epoch for event in events] == list(range(begun + probation, 5))
    assert [packet.seeds[0].impact is not None for packet in plan.packets if packet.seeds] == [
        packet.epoch >= begun + probation for packet in plan.packets if packet.seeds
    ]


def test_the_hook_has_a_budget(tmp_path: Path) -> None:
    """An event, never a failed epoch."""
    run = trained(tmp_path, PlannedPolicy(), trainer__hook_budget_ms=1e-9)
    hooks = [event.data["hook"] for event in notes_of(run).named("tolaria.hook_budget_exceeded")]
    assert hooks == ["end_of_epoch", "decision"] * 4
    assert run.progress.epoch == 4


def test_the_last_health_goes_into_a_checkpoint_and_back(tmp_path: Path) -> None:
    run = trained(tmp_path, PlannedPolicy({1: [germinate()]}))
    other = make_run(tmp_path, tamiyo=PlannedPolicy(), **GROWING)
    assert run.growth is not None
    assert other.growth is not None
    other.growth.load_state_dict(json.loads(json.dumps(run.growth.state_dict())))
    assert other.growth.health == run.growth.health != {}


def test_the_end_of_an_epoch_leaves_no_trace_in_the_model(tmp_path: Path) -> None:
    """Health, impact and FLOPs: no generator, buffer, gradient or mode is touched."""
    run = make_run(
        tmp_path,
        tamiyo=PlannedPolicy({1: [germinate()]}),
        morphogenetic__seed__probation_epochs=0,
        **GROWING | {"model__model_params": {"widths": [4, 8]}},
    )
    run.train()
    assert run.growth is not None
    model = run.model.train()
    x, y = next(iter(run.train_batches.batches(1)))
    nn.functional.cross_entropy(model(x), y).backward()
    before, grads = weights(model), [p.grad.clone() for p in model.parameters() if p.grad is not None]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    impacts = len(notes_of(run).named("seed_impact"))
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    run.cost_meter.topology_changed()
    run.cost_meter.add_forwards(1)
    run.growth.end_of_epoch(run.progress, 1.0)
    assert len(notes_of(run).named("seed_impact")) == impacts + 1
    assert torch.equal(torch.rand(3), expected)
    assert same(weights(model), before)
    assert all(map(torch.equal, (p.grad for p in model.parameters() if p.grad is not None), grads))
    assert all(module.training for module in model.modules())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_a_policy_and_a_blueprint_with_bugs_cost_growth_and_nothing_else(tmp_path: Path) -> None:
    """Every round of decisions fails, and the run is the run without growth."""

    class Buggy(PlannedPolicy):
        def decide(self, packet: Any) -> list[Any]:
            if packet.epoch % 2:
                raise IndexError("a bug in a policy")
            return [germinate(blueprint="buggy", number=packet.epoch)]

    def make(shape: Any) -> nn.Module:
        raise IndexError("a bug in a blueprint")

    before = dict(registry._REGISTRY)
    try:
        registry.register_blueprint("buggy")(make)
        run = trained(tmp_path, Buggy(), morphogenetic__blueprints=["buggy", "conv_light"])
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(before)
    plain = trained(tmp_path, PlannedPolicy())
    assert len(notes_of(run).named("tolaria.tamiyo_error")) == 2
    assert len(notes_of(run).named("adaptation_refused")) == 2
    assert notes_of(run).comparable() == notes_of(plain).comparable()


class Scale(nn.Module):
    """A blueprint's module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_a_seed_of_the_users_own_lives_like_any_other(tmp_path: Path) -> None:
    before = dict(registry._REGISTRY)
    try:
        registry.register_blueprint("users_own")(lambda shape: Scale())
        run = trained(tmp_path, PlannedPolicy({1: [germinate(blueprint="users_own")]}))
        assert run.model.record("block1", 0).stage is SeedStage.PROBATIONARY
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(before)

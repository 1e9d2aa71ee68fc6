"""The cost of a run, counted once per topology and exact through its changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs import PlannedPolicy, germinate, make_run, seed_command, weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper.leyline import CommandKind
from esper.tolaria.cost.flops import count_flops
from esper.tolaria.cost.meter import CostMeter
from esper.tolaria.gradients import PCGrad
from esper.tolaria.loop import TrainingLoop


def by_hand(run: TrainingLoop, samples: int = 16) -> tuple[float, float]:
    """FLOPs of a sample: of a forward, and of forward and backward."""
    x, y = next(iter(run.val_batches.batches(0)))
    with FlopCounterMode(display=False) as forward:
        loss = nn.functional.cross_entropy(run.model.eval().forward(x[:samples]), y[:samples])
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    run.model.zero_grad()
    return forward.get_total_flops() / samples, (
        forward.get_total_flops() + backward.get_total_flops()
    ) / samples


def test_flops_are_torchs_own_count_and_leave_no_trace(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = weights(run.model)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert count_flops(run.model.train(), run.probe.loss, run.probe.samples) == by_hand(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in run.model.parameters())
    assert all(torch.equal(t, before[n]) for n, t in weights(run.model).items())


def test_a_host_that_is_frozen_costs_its_forward(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.model.requires_grad_(False)
    forward, both = count_flops(run.model, run.probe.loss, run.probe.samples)
    assert forward == both > 0


def test_a_run_without_growth_costs_steps_times_flops(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.train()
    samples = 3 * 6 * 32
    assert run.progress.samples_seen == samples
    assert run.progress.train_flops == pytest.approx(samples * by_hand(run)[1])
    assert run.progress.param_steps == 18 * run.model.total_params()


class Twice(nn.Module):
    """The same question as two objectives."""

    def forward(self, scores: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = nn.functional.cross_entropy(scores, targets)
        return {"one": loss, "other": 2 * loss}


def test_each_objective_costs_a_backward_pass_of_its_own(tmp_path: Path) -> None:
    """With an aggregator; without one, they share a backward pass."""
    aggregator = PCGrad(torch.Generator().manual_seed(0))
    run = make_run(tmp_path, parts={"loss": Twice(), "aggregator": aggregator})
    run.train()
    forward, both = by_hand(run)
    assert run.progress.train_flops == pytest.approx(3 * 6 * 32 * (forward + 2 * (both - forward)))


def test_growth_is_charged_for_as_long_as_it_is_there(tmp_path: Path) -> None:
    options = {"morphogenetic__seed__blend_steps": 0, "morphogenetic__max_params_ratio": 9.0}
    plan = PlannedPolicy({1: [germinate()], 2: [seed_command(CommandKind.CULL, number=2)]})
    run = make_run(tmp_path, tamiyo=plan, **options)
    host, small = run.model.total_params(), by_hand(run)
    run.train()
    other = make_run(
        tmp_path, tamiyo=PlannedPolicy({1: [germinate()]}), optimization__max_epochs=1, **options
    )
    other.train()
    grown, large = other.model.total_params(), by_hand(other)
    assert large > small
    assert run.progress.param_steps == 6 * (host + grown + host)
    trained = 6 * 32 * (small[1] + large[1] + small[1])
    health = 16 * (small[0] + large[0] + small[0])
    impact = 2 * 64 * large[0]  # with it and without
    assert run.progress.train_flops == pytest.approx(trained + health + impact)


def test_an_isolated_seed_costs_its_own_forward_and_backward(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        tamiyo=PlannedPolicy({1: [germinate()]}),
        morphogenetic__seed__isolation_steps=100,
        morphogenetic__max_params_ratio=9.0,
    )
    bare = CostMeter(run.model, run.progress, run.probe).per_sample()
    run.train()
    forward, both = CostMeter(run.model, run.progress, run.probe).per_sample()
    assert forward == bare[0]  # it is not on the host's way
    assert both > bare[1]


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.progress.train_flops = 5.0
    run.cost_meter.add_forwards(2)
    assert run.progress.train_flops == 5.0 + 2 * by_hand(run)[0]

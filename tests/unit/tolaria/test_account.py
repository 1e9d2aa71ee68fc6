"""C9: what a run has cost, counted once a topology and exact through its changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs import Plan, germinate, make_run, tell, weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper.leyline import CommandKind
from esper.tolaria.account import Account
from esper.tolaria.flops import count_flops
from esper.tolaria.run import Run


def by_hand(run: Run, samples: int = 16) -> tuple[float, float]:
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


def test_growth_is_charged_from_the_step_it_begins_at(tmp_path: Path) -> None:
    plan = Plan({1: [germinate()], 2: [tell(CommandKind.CULL, number=2)]})
    run = make_run(
        tmp_path,
        tamiyo=plan,
        morphogenetic__seed__blend_steps=0,
        morphogenetic__max_params_ratio=9.0,
    )
    host, small = run.model.total_params(), by_hand(run)
    run.train()
    grown = plan.packets[1].params_now
    assert grown > host
    assert run.progress.param_steps == 6 * (host + grown + host)
    trained = 32 * 6 * small[1]
    health = 3 * 16 * small[0]
    assert run.progress.train_flops > 3 * trained + health  # the seed, while it was there


def test_an_isolated_seed_costs_its_own_forward_and_backward(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        tamiyo=Plan({1: [germinate()]}),
        morphogenetic__seed__isolation_steps=100,
        morphogenetic__max_params_ratio=9.0,
    )
    bare = Account(run.model, run.progress, run.probe).per_sample()
    run.train()
    forward, both = Account(run.model, run.progress, run.probe).per_sample()
    assert forward == bare[0]  # it is not on the host's way
    assert both > bare[1]


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.progress.train_flops = 5.0
    run.account.forwards(2)
    assert run.progress.train_flops == 5.0 + 2 * by_hand(run)[0]

"""Lookahead distinguishes good candidates from bad ones, changes nothing, and its cost is counted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers.runs import PlannedPolicy, germinate, make_run, notes_of, weights

from esper.leyline import AdaptationCommand
from esper.tolaria.growth import DataPosition, Lookahead
from esper.tolaria.loop import TrainingLoop

OPTIONS = {
    "morphogenetic__max_params_ratio": 99.0,
    "morphogenetic__blueprints": ["conv_light", "noise"],
    "optimization__max_epochs": 2,
}


def lookahead_of(run: TrainingLoop) -> Lookahead:
    return Lookahead(run.evaluator, run.train_batches, run.probe, run.components.optimizer, run.cost_meter)


def good(**changes: object) -> AdaptationCommand:
    return germinate("block2", "conv_light", options={"hidden": 16}, **changes)  # type: ignore[arg-type]


def bad(**changes: object) -> AdaptationCommand:
    return germinate("block1", "noise", options={"hidden": 4}, **changes)  # type: ignore[arg-type]


def test_noise_comes_out_worse_and_the_same_question_gets_the_same_answer(tmp_path: Path) -> None:
    run = make_run(tmp_path, tamiyo=PlannedPolicy(), **OPTIONS)
    ahead = lookahead_of(run)
    ask = [ahead.loss_after(c, DataPosition(0, 0, 0), 20, 0.01) for c in (good(), bad(), good(), None)]
    assert ask[0] == ask[2] and ask[0] < ask[1] and all(map(math.isfinite, ask))


def test_it_leaves_no_trace_but_its_cost(tmp_path: Path) -> None:
    """Bit-identical weights, buffers and generators; the run that follows is the one that would have been."""
    run, twin = (make_run(tmp_path / name, tamiyo=PlannedPolicy(), **OPTIONS) for name in ("one", "two"))
    before, state = weights(run.model), torch.get_rng_state()
    flops = run.progress.train_flops
    lookahead_of(run).loss_after(good(), DataPosition(0, 2, 2), 9, 0.01)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in weights(run.model).items())
    assert not run.model.alive_records() and run.model.counters.forwards == twin.model.counters.forwards
    spent = run.progress.train_flops - flops
    host = run.cost_meter.per_sample()[1]
    assert spent > 9 * 32 * host  # nine batches, on more than the host
    run.train()
    twin.train()
    assert notes_of(run).comparable() == notes_of(twin).comparable()
    assert run.progress.train_flops == pytest.approx(twin.progress.train_flops + spent)


def test_it_goes_on_into_the_next_epoch(tmp_path: Path) -> None:
    run = make_run(tmp_path, tamiyo=PlannedPolicy(), **OPTIONS)
    ahead = lookahead_of(run)
    assert math.isfinite(ahead.loss_after(None, DataPosition(0, 5, 5), 8, 0.01))  # of six batches an epoch

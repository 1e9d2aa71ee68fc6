"""The limit of FLOPs, and the interval of decisions within an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.runs import PlannedPolicy, germinate, make_run

from esper.config import MorphogeneticConfig
from esper.leyline import Refusal
from esper.tolaria.cost.budget import decision_interval

GROWING = {"morphogenetic__max_params_ratio": 99.0, "optimization__max_epochs": 2}


def test_a_germination_over_the_bound_is_refused_and_logged_by_how_much(tmp_path: Path) -> None:
    plan = PlannedPolicy({1: [germinate(options={"hidden": 4})]})
    make_run(tmp_path, tamiyo=plan, morphogenetic__max_flops_ratio=1.01, **GROWING).train()
    (outcome,) = plan.outcomes
    assert outcome.refusal is Refusal.BUDGET
    limit = plan.packets[0].max_flops
    assert limit is not None and f"at most {limit:,}" in outcome.detail and "FLOPs" in outcome.detail


def test_the_packet_tells_what_is_used_and_offers_only_what_fits(tmp_path: Path) -> None:
    plan = PlannedPolicy({1: [germinate(options={"hidden": 4})]})
    run = make_run(tmp_path, tamiyo=plan, morphogenetic__max_flops_ratio=4.0, **GROWING)
    run.train()
    before, after = plan.packets[0], plan.packets[-1]
    assert before.max_flops == after.max_flops == int(4.0 * before.flops_now)
    seed = next(
        c for s in before.sites for c in s.candidates if s.layer == "block1" and c.options == {"hidden": 4}
    )
    assert after.flops_now == before.flops_now + seed.flops
    assert after.flops_now == pytest.approx(run.cost_meter.per_sample()[0])
    for packet in plan.packets:
        assert packet.max_flops is not None
        room = packet.max_flops - packet.flops_now
        assert all(c.flops <= room for s in packet.sites for c in s.candidates)


def test_without_a_bound_there_is_none(tmp_path: Path) -> None:
    plan = PlannedPolicy()
    make_run(tmp_path, tamiyo=plan, **GROWING).train()
    assert plan.packets[0].max_flops is None and plan.packets[0].flops_now > 0


@pytest.mark.parametrize(
    ("steps", "epochs", "interval"), [(None, None, None), (7, 0.5, 7), (None, 0.25, 5), (None, 0.001, 1)]
)
def test_the_rhythm_is_a_share_of_an_epoch_unless_steps_are_given(
    steps: int | None, epochs: float | None, interval: int | None
) -> None:
    config = MorphogeneticConfig(decision_interval_steps=steps, decision_interval_epochs=epochs)
    assert decision_interval(config, 20) == interval


def test_candidates_tell_what_they_read(tmp_path: Path) -> None:
    plan = PlannedPolicy()
    make_run(tmp_path, tamiyo=plan, model__target_layers=[".", "block1"], **GROWING).train()
    packet = plan.packets[0]
    assert packet.inputs == 64
    reads = {(s.layer, c.placement): c.reads for s in packet.sites for c in s.candidates}
    assert reads[("block1", "parallel")] == 64 and reads[("block1", "series")] == 4 * 64

"""Germinations with a shortlist: the best by a look ahead is planted, with the evidence in the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helpers.runs import Plan, germinate, make_run, notes_of

OPTIONS = {
    "morphogenetic__max_params_ratio": 99.0,
    "morphogenetic__blueprints": ["conv_light", "noise"],
    "optimization__max_epochs": 2,
}
GOOD = germinate("block2", "conv_light", number=2, options={"hidden": 16})
BAD = germinate("block1", "noise", number=1, options={"hidden": 4})


def test_the_better_one_of_the_shortlist_is_planted_and_told(tmp_path: Path) -> None:
    plan = Plan({1: [replace(BAD, shortlist=(GOOD, replace(BAD, command_id="test-3", layer="block2")))]})
    run = make_run(tmp_path, tamiyo=plan, morphogenetic__lookahead_steps=20, **OPTIONS)
    run.train()
    (record,) = run.model.living()
    assert (record.layer, record.blueprint) == ("block2", "conv_light")
    (outcome,) = plan.outcomes
    assert outcome.applied and outcome.command.command_id == BAD.command_id and not outcome.command.shortlist
    found = outcome.command.evidence
    assert found["lookahead_loss"] < found["lookahead_next"] and found["lookahead_steps"] == 20
    (event,) = notes_of(run).named("adaptation_applied")
    assert "20 steps ahead at 3 candidates" in event.data["reason"]


def test_without_a_look_ahead_the_first_is_taken(tmp_path: Path) -> None:
    plan = Plan({1: [replace(BAD, shortlist=(GOOD,))]})
    run = make_run(tmp_path, tamiyo=plan, **OPTIONS)
    run.train()
    assert [r.blueprint for r in run.model.living()] == ["noise"]


def test_a_shortlist_that_cannot_be_compared_is_told_and_the_command_stands(tmp_path: Path) -> None:
    plan = Plan({1: [replace(GOOD, shortlist=(replace(BAD, layer="nowhere"),))]})
    run = make_run(tmp_path, tamiyo=plan, morphogenetic__lookahead_steps=5, **OPTIONS)
    run.train()
    assert [r.blueprint for r in run.model.living()] == ["conv_light"]
    (event,) = notes_of(run).named("tolaria.kasmina_error")
    assert "nowhere" in event.data["reason"]


def test_what_a_limit_refuses_is_not_looked_at(tmp_path: Path) -> None:
    """The look costs; a command that is refused anyway must not pay for it."""
    plan = Plan({1: [replace(BAD, shortlist=(GOOD,), confidence=0.1)]})
    costs = []
    for steps, name in ((0, "a"), (20, "b")):
        run = make_run(tmp_path / name, tamiyo=plan, morphogenetic__lookahead_steps=steps, **OPTIONS)
        run.train()
        costs.append(run.progress.train_flops)
    assert costs[0] == costs[1] and not any(o.applied for o in plan.outcomes)

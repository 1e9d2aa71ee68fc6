"""Germinations with a shortlist: the best by a look ahead is germinated, with the evidence in the command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import PlannedPolicy, germinate, make_run, notes_of, restored
from helpers.scenarios import alike, path_of

from esper.leyline import AdaptationCommand
from esper.tolaria.loop import TrainingLoop

OPTIONS = {
    "morphogenetic__max_params_ratio": 99.0,
    "morphogenetic__blueprints": ["conv_light", "noise"],
    "optimization__max_epochs": 2,
}
GOOD = germinate("block2", "conv_light", number=2, options={"hidden": 16})
BAD = germinate("block1", "noise", number=1, options={"hidden": 4})


def test_the_better_one_of_the_shortlist_germinates_and_is_logged(tmp_path: Path) -> None:
    plan = PlannedPolicy(
        {1: [replace(BAD, shortlist=(GOOD, replace(BAD, command_id="test-3", layer="block2")))]}
    )
    run = make_run(tmp_path, tamiyo=plan, morphogenetic__lookahead_steps=20, **OPTIONS)
    run.train()
    (record,) = run.model.alive_records()
    assert (record.layer, record.blueprint) == ("block2", "conv_light")
    (outcome,) = plan.outcomes
    assert outcome.applied and outcome.command.command_id == BAD.command_id and not outcome.command.shortlist
    found = outcome.command.evidence
    assert found["lookahead_loss"] < found["lookahead_next"] and found["lookahead_steps"] == 20
    (event,) = notes_of(run).named("adaptation_applied")
    assert "20 steps ahead at 3 candidates" in event.data["reason"]


def test_without_a_look_ahead_the_first_is_taken(tmp_path: Path) -> None:
    plan = PlannedPolicy({1: [replace(BAD, shortlist=(GOOD,))]})
    run = make_run(tmp_path, tamiyo=plan, **OPTIONS)
    run.train()
    assert [r.blueprint for r in run.model.alive_records()] == ["noise"]


def test_a_shortlist_that_cannot_be_compared_is_reported_and_the_command_stands(tmp_path: Path) -> None:
    plan = PlannedPolicy({1: [replace(GOOD, shortlist=(replace(BAD, layer="nowhere"),))]})
    run = make_run(tmp_path, tamiyo=plan, morphogenetic__lookahead_steps=5, **OPTIONS)
    run.train()
    assert [r.blueprint for r in run.model.alive_records()] == ["conv_light"]
    (event,) = notes_of(run).named("tolaria.kasmina_error")
    assert "nowhere" in event.data["reason"]


def test_what_a_limit_refuses_is_not_looked_at(tmp_path: Path) -> None:
    """The look costs; a command that is refused anyway must not pay for it."""
    plan = PlannedPolicy({1: [replace(BAD, shortlist=(GOOD,), confidence=0.1)]})
    costs = []
    for steps, name in ((0, "a"), (20, "b")):
        run = make_run(tmp_path / name, tamiyo=plan, morphogenetic__lookahead_steps=steps, **OPTIONS)
        run.train()
        costs.append(run.progress.train_flops)
    assert costs[0] == costs[1] and not any(o.applied for o in plan.outcomes)


def test_what_the_last_choice_left_no_place_for_is_not_looked_at(tmp_path: Path) -> None:
    """Two commands with the same two places on their lists: the second gets the one that is left."""
    other = replace(BAD, command_id="test-4", shortlist=(replace(GOOD, command_id="test-5"),))
    plan = PlannedPolicy({1: [replace(BAD, shortlist=(GOOD,)), other]})
    run = make_run(tmp_path, tamiyo=plan, morphogenetic__lookahead_steps=20, **OPTIONS)
    run.train()
    assert sorted(r.layer for r in run.model.alive_records()) == ["block1", "block2"]
    second = next(o for o in plan.outcomes if o.command.command_id == "test-4")
    assert second.applied and "lookahead_loss" not in second.command.evidence


class Stopping:
    """Requests a stop during the first lookahead of the run."""

    def __init__(self, run: TrainingLoop) -> None:
        self.run = run
        self.fired = False
        self.look: Callable[[AdaptationCommand], AdaptationCommand] | None = run.growth.controller.select  # type: ignore[union-attr]

    def __call__(self, command: AdaptationCommand) -> AdaptationCommand:
        self.fired = True
        self.run.run_control.stop("sigint")
        assert self.look is not None
        self.look(command)
        raise AssertionError("the look went on to its end")


@pytest.mark.parametrize("inside", [True, False])
def test_stopped_in_the_midst_of_a_look_it_goes_on_exactly(tmp_path: Path, inside: bool) -> None:
    """Nothing is germinated, and the round is done over; inside an epoch and at its end."""
    options: dict[str, Any] = {**OPTIONS, "morphogenetic__lookahead_steps": 20}
    options |= {"checkpoint__save_checkpoints": True, "optimization__max_epochs": 3}
    if inside:
        options["morphogenetic__decision_interval_steps"] = 4
    command = replace(BAD, shortlist=(GOOD,))

    def begun(name: str) -> TrainingLoop:
        # the first packet of epoch 1 is the one at its end; inside an epoch the fourth step's comes first
        return make_run(tmp_path / name, tamiyo=PlannedPolicy({0 if inside else 1: [command]}), **options)

    whole, stopped = begun("whole"), begun("stopped")
    whole.train()
    assert stopped.growth is not None
    stopping = stopped.growth.controller.select = Stopping(stopped)
    stopped.train()
    assert stopping.fired and stopped.progress.stopped_by == "sigint" and not stopped.model.alive_records()
    (saved,) = (path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir())
    resumed = restored(begun("resumed"), path_of(tmp_path / "stopped", saved))
    resumed.train()
    assert alike(resumed, whole) and resumed.progress.train_flops == whole.progress.train_flops

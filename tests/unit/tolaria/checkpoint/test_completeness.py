"""Nothing that a run holds is left out of what is saved of it.

A run is walked, object by object, whenever it is saved; so is a fresh one that was made from the files.
What differs has no business in a checkpoint, for a reason that stands here, or was forgotten.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import Notes, make_run, restored
from helpers.scenarios import LONG, make_scenario, path_of
from helpers.state_walk import StateTable, differences, walk_state

from esper.errors import CheckpointError
from esper.tamiyo import HeuristicPolicy
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.checkpoint.metadata import name_of
from esper.tolaria.loop import TrainingLoop
from esper.utils.device_and_rng import rng_state

EXEMPT = {
    r"run\.stepper\.backward\.microbatches$": "of the step that is being made",
    r"run\.cost_meter\._began(_cpu)?$": "where this process began to count time",
    r"run\.cost_meter\._(flops|parameters|trained)": "counted anew when it is asked for",
    r"run\.optimizers\.rebuilds\.latency_ms$": "a clock's",
    r"run\.growth\.packets\._known": "what blueprints offer: asked for anew",
    r"run\.interrupts\.(phase_start|_interruptible)": "of the phase of the epoch that is under way",
    r"run\.precision\.scaler\._(init_)?(scale|growth_tracker)$": "made at its first use; see below",
    r"run\.best\._current$": "of the epoch that is being closed",
    r"run\.components\.tamiyo\.(packets|outcomes)": "what a policy of the tests has written down",
    r"run\.(emergency_notifier\.path|components\.run_dir|checkpointer\.folder)$": "where this run lives",
    r"run\.(checkpointer|run_control)(\.|$)|run\.state(\.collect)?$": "saving itself, and this walk",
}


class Asks(Notes):
    """A watcher that asks for a checkpoint in the middle of an epoch."""

    run: TrainingLoop

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        super().progress(step_in_epoch, loss)
        per_epoch = self.run.steps_per_epoch
        if len(self.places) == 2 * per_epoch + per_epoch // 2:
            self.run.run_control.checkpoint()


def start(run_dir: Path, name: str, notes: Notes | None = None) -> TrainingLoop:
    if name != "heuristic":
        return make_scenario(run_dir, name, notes=notes)
    return make_run(run_dir, tamiyo=HeuristicPolicy(), notes=notes, **LONG)


def full_census(run: TrainingLoop) -> StateTable:
    tensors, meta = rng_state()
    drawn = {f"rng.{name}": str(tensor.tolist()) for name, tensor in tensors.items()}
    scale = {"scaler": repr(run.precision.state_dict())}
    return walk_state(run) | drawn | {"rng": repr(meta)} | scale


def saved_life(run_dir: Path, name: str) -> dict[str, StateTable]:
    """A life to its end; what there was at each of its saves, by the checkpoint's name."""
    notes, taken = Asks(), {}
    run = notes.run = start(run_dir, name, notes)
    collect = run.state.collect

    def at_the_save() -> Any:
        taken[name_of(run.progress.to_json())] = full_census(run)
        return collect()

    run.state.collect = at_the_save  # type: ignore[method-assign]
    run.train()
    return taken


def forgotten(a: StateTable, b: StateTable) -> list[str]:
    return [path for path in differences(a, b) if not any(re.match(why, path) for why in EXEMPT)]


def taken_up(run_dir: Path, checkpoint: str, name: str) -> TrainingLoop:
    return restored(start(run_dir / f"from {checkpoint}", name), path_of(run_dir, checkpoint))


@pytest.mark.parametrize("name", ["heuristic", "isolation", "reversed", "fp16", "accumulation", "inside"])
def test_a_fresh_run_holds_all_that_the_saved_one_held(tmp_path: Path, name: str) -> None:
    """At the end of an epoch, and in the middle of one."""
    taken = saved_life(tmp_path, name)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    for checkpoint in (names[1], next(n for n in names if "batch" in n)):
        fresh = taken_up(tmp_path, checkpoint, name)
        assert forgotten(taken[checkpoint], full_census(fresh)) == []


# What these hold is all empty, or set by those that are restored before them, in the life that is walked.
NOTHING_TO_LOSE = {"scaler"}


def test_an_owner_that_is_left_out_is_missed(tmp_path: Path) -> None:
    """The control: the walk sees each of them."""
    taken = saved_life(tmp_path, "heuristic")
    seen = taken["epoch-0003"]
    fresh = taken_up(tmp_path, "epoch-0003", "heuristic")
    assert forgotten(seen, full_census(fresh)) == []
    for owner in fresh.state.owners.keys() - NOTHING_TO_LOSE:
        checkpoint = load_checkpoint(path_of(tmp_path, "epoch-0003"))
        lame = start(tmp_path / owner, "heuristic")
        del lame.state.owners[owner]
        try:
            lame.checkpointer.restore(checkpoint)
        except CheckpointError:
            continue  # the others cannot do without it
        assert forgotten(seen, full_census(lame)) != [], owner


def test_an_attribute_that_nobody_saves_is_missed(tmp_path: Path) -> None:
    """The control: whoever adds something that changes has to register it, or to say here why not."""
    taken = saved_life(tmp_path, "no growth")
    fresh = taken_up(tmp_path, "epoch-0002", "no growth")
    fresh.evaluator.samples_so_far = 7  # type: ignore[attr-defined]
    fresh.early_stopping.rows = {"loss": [1.0]}  # type: ignore[attr-defined]
    fresh.model.host.fc.scale = 2.0
    missed = forgotten(taken["epoch-0002"], full_census(fresh))
    for path in ("run.evaluator.samples_so_far", "run.early_stopping.rows.loss.0", "run.model._modules.host"):
        assert any(found.startswith(path) for found in missed), missed

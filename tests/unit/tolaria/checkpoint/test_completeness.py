"""Checkpoints are complete: all state of a run is saved and restored.

A run is walked, object by object, whenever it is saved, and so is a new one that is restored from the files.
Every difference is listed here with the reason why it is not saved.
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
    r"run\.stepper\.backward\.microbatches$": "of the present step",
    r"run\.cost_meter\._start(_cpu)?$": "the start of this process's clocks",
    r"run\.cost_meter\._(flops|parameters|trained)": "counted again on demand",
    r"run\.optimizers\.rebuilds\.latency_ms$": "read from a clock",
    r"run\.growth\.packets\._known": "the candidates of blueprints: computed again",
    r"run\.interrupts\.(phase_start|_interruptible)": "of the present phase of the epoch",
    r"run\.precision\.scaler\._(init_)?(scale|growth_tracker)$": "initialised at its first use; see below",
    r"run\.best\._current$": "of the epoch that ends",
    r"run\.components\.tamiyo\.(packets|outcomes)": "recorded by a policy of the tests",
    r"run\.(emergency_notifier\.path|components\.run_dir|checkpointer\.folder)$": "paths of this run",
    r"run\.(checkpointer|run_control)(\.|$)|run\.state(\.collect)?$": "used by saving, and by this walk",
}


class CheckpointInEpoch(Notes):
    """A progress callback that requests a checkpoint in the middle of an epoch."""

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


def full_state(run: TrainingLoop) -> StateTable:
    tensors, meta = rng_state()
    drawn = {f"rng.{name}": str(tensor.tolist()) for name, tensor in tensors.items()}
    scale = {"scaler": repr(run.precision.state_dict())}
    return walk_state(run) | drawn | {"rng": repr(meta)} | scale


def saved_states(run_dir: Path, name: str) -> dict[str, StateTable]:
    """The states of a run at each of its saves, by the checkpoint's name."""
    notes, taken = CheckpointInEpoch(), {}
    run = notes.run = start(run_dir, name, notes)
    collect = run.state.collect

    def at_the_save() -> Any:
        taken[name_of(run.progress.to_json())] = full_state(run)
        return collect()

    run.state.collect = at_the_save  # type: ignore[method-assign]
    run.train()
    return taken


def forgotten(a: StateTable, b: StateTable) -> list[str]:
    return [path for path in differences(a, b) if not any(re.match(why, path) for why in EXEMPT)]


def resumed(run_dir: Path, checkpoint: str, name: str) -> TrainingLoop:
    return restored(start(run_dir / f"from {checkpoint}", name), path_of(run_dir, checkpoint))


@pytest.mark.parametrize("name", ["heuristic", "isolation", "reversed", "fp16", "accumulation", "inside"])
def test_a_resumed_run_has_all_state_of_the_saved_one(tmp_path: Path, name: str) -> None:
    """At the end of an epoch, and in the middle of one."""
    taken = saved_states(tmp_path, name)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    for checkpoint in (names[1], next(n for n in names if "batch" in n)):
        fresh = resumed(tmp_path, checkpoint, name)
        assert forgotten(taken[checkpoint], full_state(fresh)) == []


# The state of these is empty, or set by owners that are restored before them, in this run.
NOTHING_TO_LOSE = {"scaler"}


def test_an_omitted_owner_is_found(tmp_path: Path) -> None:
    """The control: the walk finds each of them."""
    taken = saved_states(tmp_path, "heuristic")
    seen = taken["epoch-0003"]
    fresh = resumed(tmp_path, "epoch-0003", "heuristic")
    assert forgotten(seen, full_state(fresh)) == []
    for owner in fresh.state.owners.keys() - NOTHING_TO_LOSE:
        checkpoint = load_checkpoint(path_of(tmp_path, "epoch-0003"))
        without = start(tmp_path / owner, "heuristic")
        del without.state.owners[owner]
        try:
            without.checkpointer.restore(checkpoint)
        except CheckpointError:
            continue  # other owners need it
        assert forgotten(seen, full_state(without)) != [], owner


def test_an_unsaved_attribute_is_found(tmp_path: Path) -> None:
    """The control: new state must be registered, or listed above with a reason."""
    taken = saved_states(tmp_path, "no growth")
    fresh = resumed(tmp_path, "epoch-0002", "no growth")
    fresh.evaluator.samples_so_far = 7  # type: ignore[attr-defined]
    fresh.early_stopping.rows = {"loss": [1.0]}  # type: ignore[attr-defined]
    fresh.model.host.fc.scale = 2.0
    missed = forgotten(taken["epoch-0002"], full_state(fresh))
    for path in ("run.evaluator.samples_so_far", "run.early_stopping.rows.loss.0", "run.model._modules.host"):
        assert any(found.startswith(path) for found in missed), missed

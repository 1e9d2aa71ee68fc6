"""A rollback is durable before training continues, at whatever moment the process is killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.faults import FaultyLoss
from helpers.runs import Notes, PlannedPolicy, germinate, make_run, notes_of, restored
from helpers.scenarios import LONG, alike

from esper.tolaria.checkpoint import find_checkpoint, load_checkpoint
from esper.tolaria.loop import TrainingLoop
from esper.utils.files import Content, Files

ROLLBACK, HALT = "tolaria.rollback.restored", "tolaria.emergency.halt"


class Copying(Files):
    """Copies the run's folder before each write while a rollback is saved: as if killed there."""

    def __init__(self, run_dir: Path, copies: Path) -> None:
        self.run_dir, self.copies = run_dir, copies
        self.active = False
        self.made: list[Path] = []

    def copy(self) -> None:
        if self.active:
            self.made.append(self.copies / str(len(self.made)))
            shutil.copytree(self.run_dir / "checkpoints", self.made[-1] / "checkpoints")
            shutil.copy(self.run_dir / "metrics.jsonl", self.made[-1])

    def mkdir(self, path: Path) -> None:
        self.copy()
        super().mkdir(path)

    def write(self, path: Path, content: Content) -> None:
        self.copy()
        super().write(path, content)

    def rename(self, old: Path, new: Path) -> None:
        self.copy()
        super().rename(old, new)


class Failing(Files):
    """A disk that is full while it is `full`."""

    full = False

    def write(self, path: Path, content: Content) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(path, content)


def run_of(run_dir: Path, *faults: int, notes: Notes | None = None, **options: Any) -> TrainingLoop:
    """Four epochs of six steps, each saved; from the end of the first on a seed blends for nine steps."""
    given = LONG | {"morphogenetic__seed__blend_steps": 9} | options
    return make_run(
        run_dir,
        tamiyo=PlannedPolicy({1: [germinate()]}),
        notes=notes,
        parts={"loss": FaultyLoss(*faults)},
        **given,
    )


def forget_newest(run: TrainingLoop) -> None:
    """Without snapshots and the newest checkpoint: the next rollback goes further back."""
    snapshots = run.guard.snapshots
    snapshots.drop(snapshots.steps[-1])


def at_step(run: TrainingLoop, step: int, act: Any) -> None:
    after_step = run.guard.after_step

    def acting(norm: Any) -> None:
        if run.progress.step == step:
            act()
        after_step(norm)

    run.guard.after_step = acting  # type: ignore[method-assign]


def test_at_every_moment_the_folder_holds_a_whole_course(tmp_path: Path) -> None:
    """Until the new checkpoint is in place it is the old course with its records, then the new one."""
    files = Copying(tmp_path / "run", tmp_path / "copies")
    for name in ("run", "copies"):
        (tmp_path / name).mkdir()
    run = run_of(tmp_path / "run", 15)  # in epoch 3, where it goes back to the end of epoch 1
    run.checkpointer.io = files
    lines = tmp_path / "run" / "metrics.jsonl"
    notes = notes_of(run)
    write = notes.epoch

    def epoch(record: Any) -> None:
        write(record)
        with lines.open("a") as file:
            file.write(json.dumps(record["epoch"]) + "\n")

    def rewind(state: Any) -> None:
        files.copy()
        del notes.epochs[state["epochs"] :]
        lines.write_text("".join(f"{n + 1}\n" for n in range(state["epochs"])))
        files.copy()
        files.active = False

    notes.epoch, notes.rewind = epoch, rewind  # type: ignore[method-assign]

    def strike() -> None:
        if files.made:
            return  # it has gone back, and passes here again
        forget_newest(run)
        run.checkpointer.flush()
        files.active = True

    at_step(run, 15, strike)
    run.train()
    found = []
    for folder in files.made:
        newest = find_checkpoint(folder)
        saved = load_checkpoint(newest.path).state["run"]
        logged = (folder / "metrics.jsonl").read_text().split()
        assert len(logged) >= saved["records"]["epochs"] == saved["progress"]["epoch"]
        found.append(saved["progress"]["epoch"])
        # what was decided is in the one if and only if it is a rollback's
        state = load_checkpoint(newest.path).state["owners"]
        assert state["schedule"]["scale"] == (0.5 if "rollback" in saved else 1.0)
        assert state["recovery"]["rollbacks"] == ("rollback" in saved)
    assert found == sorted(found, reverse=True) and set(found) == {2, 1}
    assert len(found) > 10
    assert [line["epoch"] for line in notes.epochs] == [1, 2, 3, 4]


def test_killed_right_after_it_is_durable_a_run_takes_the_same_course(tmp_path: Path) -> None:
    """Rates, embargo, count, level; the event that was not yet logged is logged by the restart."""
    copies: list[Path] = []

    class Killed(Notes):
        def rewind(self, state: Any) -> None:
            copies.append(tmp_path / f"copy-{len(copies)}")
            shutil.copytree(tmp_path / "whole", copies[-1])
            super().rewind(state)

    whole = run_of(tmp_path / "whole", 14, 17, notes=Killed(), trainer__max_rollbacks=3)
    whole.train()
    assert len(copies) == 2
    logged = [event.data for event in notes_of(whole).named(ROLLBACK)]
    assert [event["rollbacks"] for event in logged] == [1, 2]
    # after the first, 15 steps into the life of the other, comes the second; after the second, none
    for copy, faults, number in ((copies[0], (3,), 0), (copies[1], (), 1)):
        # the third step of the life that starts at step 12 is the second fault's
        resumed = run_of(copy, *faults, trainer__max_rollbacks=3)
        restored(resumed, find_checkpoint(copy).path)
        resumed.train()
        assert alike(resumed, whole)
        again = [event.data for event in notes_of(resumed).named(ROLLBACK)]
        assert [{**e, "latency_ms": 0} for e in again] == [{**e, "latency_ms": 0} for e in logged[number:]]
        assert resumed.progress.train_flops == whole.progress.train_flops


def test_what_a_rollback_undoes_is_paid_for(tmp_path: Path) -> None:
    """FLOPs and parameter-steps are those of 24 steps and of the two that were undone."""
    plain, undone = (
        make_run(tmp_path / "a", **LONG),
        make_run(tmp_path / "b", parts={"loss": FaultyLoss(14)}, **LONG),
    )
    for run in (plain, undone):
        run.train()
    assert undone.progress.step == plain.progress.step == 24
    assert undone.progress.train_flops == pytest.approx(plain.progress.train_flops * 26 / 24)
    assert undone.progress.param_steps * 24 == plain.progress.param_steps * 26
    assert undone.progress.samples_seen == plain.progress.samples_seen


def test_where_nothing_is_saved_a_rollback_still_works(tmp_path: Path) -> None:
    run = run_of(tmp_path, 14, checkpoint__save_checkpoints=False)
    run.train()
    assert run.progress.stopped_by == "max_epochs"
    assert len(notes_of(run).named(ROLLBACK)) == 1
    assert not (tmp_path / "checkpoints").exists()


def test_a_full_disk_is_no_end_where_a_restart_would_find_a_good_state(tmp_path: Path) -> None:
    """The checkpoint of the restored state is kept, without the decisions."""
    run, files = run_of(tmp_path, 14), Failing()
    run.checkpointer.io = files

    def strike() -> None:
        run.checkpointer.flush()
        files.full = True

    at_step(run, 14, strike)
    run.train()
    assert run.progress.stopped_by == "max_epochs"
    assert len(notes_of(run).named(ROLLBACK)) == 1
    assert find_checkpoint(tmp_path).path.name == "epoch-0002"


def test_a_full_disk_halts_where_a_restart_would_take_the_course_that_was_left(tmp_path: Path) -> None:
    """The disk is unchanged, including the records."""
    run, files = run_of(tmp_path, 14), Failing()
    run.checkpointer.io = files

    def strike() -> None:
        forget_newest(run)
        run.checkpointer.flush()
        files.full = True

    at_step(run, 14, strike)
    run.train()
    notes = notes_of(run)
    assert run.progress.stopped_by == "emergency"
    assert notes.named(ROLLBACK) == []
    assert "could not be saved" in notes.named(HALT)[0].data["reason"]
    assert find_checkpoint(tmp_path).path.name == "epoch-0002"
    assert [line["epoch"] for line in notes.epochs] == [1, 2]


@pytest.mark.parametrize(
    "options", [{"checkpoint__keep_best_only": True}, {"checkpoint__max_checkpoints": 1}]
)
def test_the_checkpoint_of_a_rollback_stays_while_it_is_the_newest(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    run, seen = run_of(tmp_path, 14, **options), []
    at_step(run, 13, lambda: seen.append(find_checkpoint(tmp_path).path.name))
    run.train()
    # the same step is passed twice: before the fault, and after the rollback to the end of epoch 2
    assert seen[1] == "epoch-0002"
    first_of = load_checkpoint(find_checkpoint(tmp_path).path).state["run"]["progress"]
    assert first_of["epoch"] == 4

"""When a run is saved, what it logs about it, and what it restores."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import PlannedPolicy, checkpoints, germinate, make_run, notes_of, restored, weights

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.checkpoint.checkpointer import BackgroundWriter
from esper.tolaria.checkpoint.retention import Retention, prune
from esper.tolaria.checkpoint.snapshots import Snapshot, Snapshots
from esper.tolaria.loop import TrainingLoop
from esper.utils.files import Content, Files

SAVING = {"checkpoint__save_checkpoints": True, "morphogenetic__max_params_ratio": 99.0}


def saving(run_dir: Path, **options: Any) -> TrainingLoop:
    run = make_run(run_dir, **SAVING | options)
    run.train()
    return run


def folders(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("frequency", "saved"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (10, [5]), (5, [5])]
)
def test_it_saves_at_its_frequency_and_always_at_the_end(
    tmp_path: Path, frequency: int, saved: list[int]
) -> None:
    run = saving(tmp_path, checkpoint__checkpoint_frequency=frequency, optimization__max_epochs=5)
    assert list(checkpoints(run)) == [f"epoch-{epoch:04d}" for epoch in saved]


def test_nothing_is_saved_where_nothing_is_to_be(tmp_path: Path) -> None:
    saving(tmp_path, checkpoint__save_checkpoints=False)
    assert not (tmp_path / "checkpoints").exists()


def test_only_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    run = saving(
        tmp_path,
        checkpoint__checkpoint_frequency=1,
        checkpoint__max_checkpoints=2,
        optimization__max_epochs=5,
    )
    assert run.best.score.epoch == 3
    assert folders(tmp_path) == ["epoch-0003", "epoch-0005"]


def test_every_so_manieth_stays_besides(tmp_path: Path) -> None:
    saving(
        tmp_path,
        checkpoint__checkpoint_frequency=1,
        checkpoint__max_checkpoints=1,
        checkpoint__keep_every=2,
        optimization__max_epochs=5,
    )
    assert folders(tmp_path) == ["epoch-0002", "epoch-0004", "epoch-0005"]


def test_with_the_best_only_one_is_kept_and_it_holds_the_best(tmp_path: Path) -> None:
    run = saving(tmp_path, checkpoint__keep_best_only=True, optimization__max_epochs=5)
    saved = list(checkpoints(run))
    improved = [
        number
        for number, record in enumerate(notes_of(run).epochs, 1)
        if record["val_accuracy"]
        > max((r["val_accuracy"] for r in notes_of(run).epochs[: number - 1]), default=-1)
    ]
    assert {f"epoch-{epoch:04d}" for epoch in improved} <= set(saved)
    (name,) = folders(tmp_path)
    held = load_checkpoint(tmp_path / "checkpoints" / name)
    assert held.state["owners"]["best"]["mark"]["epoch"] == run.best.score.epoch
    best = {n.removeprefix("weights/"): t for n, t in held.tensors["best"].items()}
    assert all(torch.equal(best[n], t) for n, t in run.best.weights.items())


def test_a_save_that_fails_is_reported_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    run = saving(tmp_path, checkpoint__checkpoint_frequency=1)
    failed = notes_of(run).named("checkpoint_failed")
    assert [event.data["name"][-1] for event in failed] == ["1", "2", "3", "3"]  # the end tries again
    assert all(event.level == "error" and "checkpoints" in event.data["reason"] for event in failed)
    assert run.progress.stopped_by == "max_epochs"


def test_a_policy_that_cannot_give_its_memory_costs_the_save_alone(tmp_path: Path) -> None:
    class Forgetful(PlannedPolicy):
        def state_dict(self) -> dict[str, Any]:
            raise ZeroDivisionError("no memory")

    run = saving(tmp_path, tamiyo=Forgetful(), checkpoint__checkpoint_frequency=2)
    assert "no memory" in notes_of(run).named("checkpoint_failed")[0].data["reason"]
    assert run.progress.epoch == 3


def test_old_ones_that_cannot_be_removed_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(folder: Path, retention: Retention) -> list[str]:
        prune(folder, Retention(99))
        raise CheckpointError("epoch-0001 could not be removed: busy")

    monkeypatch.setattr("esper.tolaria.checkpoint.checkpointer.prune", stuck)
    run = saving(tmp_path, checkpoint__checkpoint_frequency=1, checkpoint__max_checkpoints=1)
    assert list(checkpoints(run)) == ["epoch-0001", "epoch-0002", "epoch-0003"]
    assert "busy" in notes_of(run).named("notice")[0].data["message"]
    assert notes_of(run).named("checkpoint_failed") == []


def test_a_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    run = saving(tmp_path)
    header = load_checkpoint(tmp_path / "checkpoints" / "epoch-0003").state["run"]
    assert header["config"] == run.config.to_dict()
    assert header["progress"]["step"] == 18
    assert header["progress"]["wall_s"] > 0
    assert header["threads"] == torch.get_num_threads()
    assert "torch" in header["versions"]


def test_a_run_that_differs_in_what_numbers_depend_on_is_reported(tmp_path: Path) -> None:
    """A run that is resumed with another thread count logs that it may not repeat exactly."""
    saving(tmp_path)
    same_run = restored(make_run(tmp_path / "b", **SAVING), tmp_path / "checkpoints" / "epoch-0003")
    assert notes_of(same_run).named("notice") == []
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        other = restored(make_run(tmp_path / "c", **SAVING), tmp_path / "checkpoints" / "epoch-0003")
    finally:
        torch.set_num_threads(threads)
    (event,) = notes_of(other).named("notice")
    assert f"threads was {threads}, is {threads + 1}" in event.data["message"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    saving(tmp_path)
    other = make_run(tmp_path / "b", model__model_params={"widths": [4, 9]}, **SAVING)
    with pytest.raises(CheckpointError, match="model"):
        restored(other, tmp_path / "checkpoints" / "epoch-0003")


def test_without_strict_loading_what_fits_is_taken(tmp_path: Path) -> None:
    saving(tmp_path)
    loose = {"checkpoint__strict_loading": False, "optimization__optimizer": "sgd"}
    other = restored(make_run(tmp_path / "b", **SAVING | loose), tmp_path / "checkpoints" / "epoch-0003")
    assert other.progress.epoch == 3
    (event,) = notes_of(other).named("notice")
    assert "optimizers" in event.data["message"]


@pytest.mark.parametrize("saved", [True, False])
def test_tamiyos_memory_is_saved_where_it_is_asked_for(tmp_path: Path, saved: bool) -> None:
    options = SAVING | {"checkpoint__save_morphogenetic_state": saved}
    run = saving(tmp_path, tamiyo=PlannedPolicy({1: [germinate()]}), **options)
    owners = load_checkpoint(tmp_path / "checkpoints" / "epoch-0003").state["owners"]
    assert ({"control", "history", "growth", "health"} <= owners.keys()) is saved
    other = restored(
        make_run(tmp_path / "b", tamiyo=PlannedPolicy(), **SAVING), tmp_path / "checkpoints" / "epoch-0003"
    )
    assert other.growth is not None
    assert other.growth.controller.counts["applied"] == int(saved)
    assert all(torch.equal(t, weights(run.model)[n]) for n, t in weights(other.model).items())


# -- in the background ---------------------------------------------------------------------------


class Disk(Files):
    """Blocks every write until it is released, fails at the k-th call, and records the calling threads."""

    def __init__(self, fail_at: int = 0, code: int = errno.ENOSPC) -> None:
        self.go = threading.Event()
        self.go.set()
        self.fail_at, self.code = fail_at, code
        self.calls = 0
        self.threads: set[str] = set()

    def _call(self) -> None:
        self.go.wait(30)
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        if self.calls == self.fail_at:
            raise OSError(self.code, os.strerror(self.code))

    def mkdir(self, path: Path) -> None:
        self._call()
        super().mkdir(path)

    def write(self, path: Path, content: Content) -> None:
        self._call()
        super().write(path, content)

    def fsync(self, path: Path) -> None:
        self._call()
        super().fsync(path)

    def rename(self, old: Path, new: Path) -> None:
        self._call()
        super().rename(old, new)

    def fsync_dir(self, path: Path) -> None:
        self._call()
        super().fsync_dir(path)


def on_disk(run_dir: Path, disk: Disk, **options: Any) -> TrainingLoop:
    """A run whose store writes through `disk`, one epoch old."""
    run = make_run(run_dir, **SAVING | {"checkpoint__checkpoint_frequency": 1} | options)
    run.checkpointer.io = disk
    run.epoch()
    run.checkpointer.flush()
    return run


def test_the_run_goes_on_while_it_is_written_and_what_is_written_is_the_moment_of_the_save(
    tmp_path: Path,
) -> None:
    """The loop only copies, the rest runs in the background; logged only once it is durable."""
    disk = Disk()
    run = on_disk(tmp_path, disk)
    disk.go.clear()
    run.epoch()
    then = weights(run.model)
    assert run.checkpointer.busy
    run._train_pass()  # on and on, while nothing has been written
    run.checkpointer.poll()
    assert list(checkpoints(run)) == ["epoch-0001"]
    assert folders(tmp_path) == ["epoch-0001"]
    disk.go.set()
    saved = run.checkpointer.flush()
    assert saved is not None
    assert (saved.name, saved.error) == ("epoch-0002", "")
    assert list(checkpoints(run)) == ["epoch-0001", "epoch-0002"]
    held = load_checkpoint(saved.path)
    assert held.state["run"]["progress"]["step"] == 12
    assert all(torch.equal(held.tensors["model"][name], t) for name, t in then.items())
    assert any(not torch.equal(t, then[name]) for name, t in weights(run.model).items())
    assert disk.threads == {"esper-checkpoint_0"}
    assert run.checkpointer.flush() is None


def test_the_next_save_waits_for_the_last(tmp_path: Path) -> None:
    disk = Disk()
    run = on_disk(tmp_path, disk)
    disk.go.clear()
    run.epoch()
    threading.Timer(0.3, disk.go.set).start()
    run.epoch()
    assert list(checkpoints(run)) == ["epoch-0001", "epoch-0002"]
    run.checkpointer.close()
    assert list(checkpoints(run)) == ["epoch-0001", "epoch-0002", "epoch-0003"]
    assert run.checkpointer.telemetry.step == 18
    assert run.checkpointer.busy is False


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whatever_call_fails_the_previous_one_stands_and_the_run_goes_on(tmp_path: Path, code: int) -> None:
    """One event for each; the next save succeeds."""
    disk = Disk(code=code)
    run = on_disk(tmp_path, disk, trainer__limit_train_batches=1, trainer__limit_val_batches=1)
    calls = disk.calls - 1  # the parent folder is made but once
    for k in range(1, calls):  # the last call of all is made when the new one is in place already
        disk.calls, disk.fail_at = 0, k
        run.progress.epoch += 1
        run.checkpointer.save(run.progress)
        saved = run.checkpointer.flush()
        assert disk.calls >= k
        assert saved is not None and os.strerror(code) in saved.error
        event = notes_of(run).named("checkpoint_failed")[k - 1]
        assert (event.level, event.data["name"]) == ("error", saved.name)
        assert os.strerror(code) in event.data["reason"]
        assert folders(tmp_path) == ["epoch-0001"]
    assert len(notes_of(run).named("checkpoint_failed")) == calls - 1 > 10
    load_checkpoint(tmp_path / "checkpoints" / "epoch-0001")
    disk.fail_at = 0
    run.epoch()
    run.checkpointer.flush()
    assert folders(tmp_path) == ["epoch-0001", f"epoch-{run.progress.epoch:04d}"]


@pytest.mark.parametrize(("value", "what"), [(math.nan, "NaN"), (math.inf, "Inf")])
def test_weights_that_are_no_numbers_are_never_the_newest(tmp_path: Path, value: float, what: str) -> None:
    """The valid checkpoint is not overwritten."""
    run = on_disk(tmp_path, Disk())
    with torch.no_grad():
        next(run.model.parameters()).view(-1)[0] = value
    run.progress.epoch += 1
    assert run.checkpointer.save(run.progress, final=True) is None
    (event,) = notes_of(run).named("checkpoint_failed")
    assert f"holds {what}" in event.data["reason"]
    assert folders(tmp_path) == ["epoch-0001"]


def test_buffers_may_hold_infinities_but_no_nan(tmp_path: Path) -> None:
    run = on_disk(tmp_path, Disk())
    mask = torch.tensor([0.0, -math.inf])
    run.model.host.register_buffer("mask", mask)
    run.progress.epoch += 1
    assert run.checkpointer.save(run.progress, final=True) is not None
    mask[0] = math.nan
    run.progress.epoch += 1
    assert run.checkpointer.save(run.progress, final=True) is None


def test_a_snapshot_becomes_a_checkpoint_of_its_own_moment(tmp_path: Path) -> None:
    """A run that is stopped within a phase is saved in the state before it."""
    run = on_disk(tmp_path, Disk())
    snapshots = Snapshots(1 << 30, run.state, run.checkpointer.metadata.make)
    run._train_pass()
    taken = snapshots.take(run.progress)
    assert isinstance(taken, Snapshot)
    run.epoch()
    run.checkpointer.flush()
    path = run.checkpointer.save_snapshot(taken)
    assert path is not None
    assert path.name == "epoch-0001-batch-000006"
    held = load_checkpoint(path)
    assert held.state == json.loads(json.dumps(taken.state))
    assert all(torch.equal(held.tensors["model"][n], t) for n, t in taken.tensors["model"].items())
    assert run.checkpointer.save_snapshot(taken) is None  # it is there already


def test_the_best_models_copy_is_shared_and_not_copied_again(tmp_path: Path) -> None:
    run = on_disk(tmp_path, Disk())
    collected = run.state.collect()
    tensors, _ = run.state.capture()
    assert run.best.weights
    for name, tensor in run.best.weights.items():
        assert tensors["best"][f"weights/{name}"] is tensor
    assert collected.shared == {"best"}


def test_memory_of_a_topology_that_has_been_is_not_kept(tmp_path: Path) -> None:
    options = SAVING | {"checkpoint__checkpoint_frequency": 1, "optimization__max_epochs": 3}
    run = make_run(tmp_path, tamiyo=PlannedPolicy({1: [germinate()]}), **options)
    run.train()
    assert run.checkpointer._buffers.free_bytes == 0  # closed
    run.progress.epoch += 1
    run.checkpointer.save(run.progress, final=True)
    tensors, _ = run.state.capture()
    held = sum(t.nbytes for name, group in tensors.items() if name != "best" for t in group.values())
    assert run.checkpointer._buffers.free_bytes == held


def test_it_runs_elsewhere_and_is_waited_for() -> None:
    writer, go, seen = BackgroundWriter(), threading.Event(), []
    assert writer.wait() is None

    def write() -> None:
        go.wait(30)
        seen.append(threading.current_thread())

    writer.start(write)
    assert writer.busy
    assert seen == []
    go.set()
    assert writer.wait() is None
    assert not writer.busy
    assert seen != [threading.current_thread()]
    writer.close()
    assert not seen[0].is_alive()
    writer.start(lambda: None)  # closed is not the end
    assert writer.wait() is None


@pytest.mark.parametrize("error", [OSError(28, "full"), CheckpointError("no"), MemoryError()])
def test_why_a_write_failed_is_returned_once(error: Exception) -> None:
    writer = BackgroundWriter()

    def write() -> None:
        raise error

    writer.start(write)
    assert writer.wait() is error
    assert writer.wait() is None
    writer.start(lambda: None)
    assert writer.wait() is None


def test_a_defect_is_raised_where_somebody_sees_it() -> None:
    writer = BackgroundWriter()
    writer.start(lambda: {}["no such key"])  # type: ignore[index]
    with pytest.raises(KeyError):
        writer.wait()
    assert writer.wait() is None


def test_no_second_write_is_begun_before_the_first_is_waited_for() -> None:
    writer = BackgroundWriter()
    writer.start(lambda: None)
    with pytest.raises(AssertionError, match="not been waited for"):
        writer.start(lambda: None)
    writer.wait()


def test_a_process_that_ends_by_an_error_still_ends_its_write(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from esper.tolaria.checkpoint.checkpointer import BackgroundWriter\n"
        "def write():\n    time.sleep(0.3); Path(sys.argv[1]).write_text('whole')\n"
        "BackgroundWriter().start(write)\nraise SystemExit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], timeout=60, check=False)
    assert done.returncode == 1
    assert (tmp_path / "x").read_text() == "whole"

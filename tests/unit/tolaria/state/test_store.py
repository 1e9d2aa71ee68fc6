"""T10, S2 to S4 in part: when a run is saved, what it says of it, and what it takes up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Plan, checkpoints, germinate, make_run, notes_of, restored, weights

from esper.errors import CheckpointError
from esper.tolaria.run import Run
from esper.tolaria.state import load_checkpoint
from esper.tolaria.state.retention import prune

SAVING = {"checkpoint__save_checkpoints": True, "morphogenetic__max_params_ratio": 99.0}


def saving(run_dir: Path, **options: Any) -> Run:
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


def test_only_the_last_few_are_kept(tmp_path: Path) -> None:
    saving(
        tmp_path,
        checkpoint__checkpoint_frequency=1,
        checkpoint__max_checkpoints=2,
        optimization__max_epochs=5,
    )
    assert folders(tmp_path) == ["epoch-0004", "epoch-0005"]


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
    assert held.state["owners"]["best"]["mark"]["epoch"] == run.best.mark.epoch
    best = {n.removeprefix("weights/"): t for n, t in held.tensors["best"].items()}
    assert all(torch.equal(best[n], t) for n, t in run.best.weights.items())


def test_a_save_that_fails_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    run = saving(tmp_path, checkpoint__checkpoint_frequency=1)
    failed = notes_of(run).named("checkpoint_failed")
    assert [event.data["name"][-1] for event in failed] == ["1", "2", "3", "3"]  # the end tries again
    assert all(event.level == "error" and "checkpoints" in event.data["reason"] for event in failed)
    assert run.progress.stopped_by == "max_epochs"


def test_a_policy_that_cannot_give_its_memory_costs_the_save_alone(tmp_path: Path) -> None:
    class Forgetful(Plan):
        def state_dict(self) -> dict[str, Any]:
            raise ZeroDivisionError("no memory")

    run = saving(tmp_path, tamiyo=Forgetful(), checkpoint__checkpoint_frequency=2)
    assert "no memory" in notes_of(run).named("checkpoint_failed")[0].data["reason"]
    assert run.progress.epoch == 3


def test_old_ones_that_cannot_be_removed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(folder: Path, *, keep: int) -> list[str]:
        prune(folder, keep=99)
        raise CheckpointError("epoch-0001 could not be removed: busy")

    monkeypatch.setattr("esper.tolaria.state.store.prune", stuck)
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


def test_a_run_that_differs_in_what_numbers_depend_on_is_told_so(tmp_path: Path) -> None:
    """S2: on one resumed with another count it says that exactness is lost."""
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
    run = saving(tmp_path, tamiyo=Plan({1: [germinate()]}), **options)
    owners = load_checkpoint(tmp_path / "checkpoints" / "epoch-0003").state["owners"]
    assert ({"control", "history", "growth", "health"} <= owners.keys()) is saved
    other = restored(
        make_run(tmp_path / "b", tamiyo=Plan(), **SAVING), tmp_path / "checkpoints" / "epoch-0003"
    )
    assert other.growth is not None
    assert other.growth.control.counts["applied"] == int(saved)
    assert all(torch.equal(t, weights(run.model)[n]) for n, t in weights(other.model).items())

"""`checkpoint.resume_from_checkpoint`: what a job resumes from, and whether it may."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import folders
from helpers.command import events_of, metrics_of, summary_of
from helpers.folders import AUTO
from rich.console import Console
from safetensors.torch import load_file

import esper
from esper.config import TolariaConfig
from esper.errors import ConfigError
from esper.runs.context import RunContext
from esper.runs.resume import find_origin, origin_problems, set_killed_aside
from esper.runs.trainer import TolariaTrainer
from esper.utils.lock import FolderLock


def config(**options: Any) -> TolariaConfig:
    return folders.config(**{"optimization__max_epochs": 2} | options)


def run(folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """The summary of a run, and its output."""
    message = io.StringIO()
    trainer = TolariaTrainer(
        config(**options), run_dir=folder, context=RunContext(console=Console(file=message, width=200))
    )
    return trainer.run_training(), message.getvalue()


def problems(folder: Path, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        run(folder, **options)
    return caught.value.problems


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two epochs; not to be changed."""
    folder = tmp_path_factory.mktemp("done") / "run"
    run(folder)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_run_is_left_as_it_is_and_said_to_be(done: Path) -> None:
    before = content(done)
    summary, message = run(done, **AUTO)
    assert summary == summary_of(done)
    assert "is finished (max_epochs, 2 epochs): nothing to do. A greater optimization.max_epochs" in message
    assert content(done) == before


def test_changes_that_may_not_be_are_refused_by_name_beside_those_that_may(done: Path) -> None:
    """Key, given, saved; nothing in the folder is touched."""
    before = content(done)
    found = problems(done, **AUTO, dataset__batch_size=16, seed=4, optimization__max_epochs=9)
    assert [text.split(":")[0] for text in found] == ["seed", "dataset.batch_size"]
    assert "given 16, expected 32, as it was saved, or checkpoint.strict_loading=false" in found[1]
    assert "these differ too, and may: optimization.max_epochs: saved 2, given 9 (from here on" in found[1]
    assert content(done) == before
    moved = problems(done, **AUTO, checkpoint__checkpoint_dir="other", checkpoint__strict_loading=False)
    assert "checkpoint.checkpoint_dir: given 'other'" in moved[0] and len(moved) == 1


def test_more_epochs_are_explicit_and_said(tmp_path: Path) -> None:
    run(tmp_path)
    lines = metrics_of(tmp_path)
    summary, message = run(tmp_path, **AUTO, optimization__max_epochs=3)
    assert message.startswith(f"resumed from {tmp_path / 'checkpoints' / 'epoch-0002'}: epoch 2, step 12\n")
    assert "  changed: optimization.max_epochs: saved 2, given 3 (from here on the learning rate" in message
    (event,) = events_of(tmp_path, "run_resumed")
    change = event["changed"]["optimization.max_epochs"]
    assert change == {"saved": 2, "given": 3, "allowed": True}
    assert summary["epochs_run"] == 3
    assert summary["resumed_from"] == str(tmp_path / "checkpoints" / "epoch-0002")
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [1, 2, 3] and metrics_of(tmp_path)[:2] == lines
    assert summary["wall_s"] > 0 and summary["cpu_s"] > 0


def test_another_runs_checkpoint_begins_a_folder_of_its_own(done: Path, tmp_path: Path) -> None:
    summary, _ = run(
        tmp_path / "new", checkpoint__resume_from_checkpoint=str(done), optimization__max_epochs=3
    )
    assert summary["resumed_from"] == str(done / "checkpoints" / "epoch-0002")
    assert [line["epoch"] for line in metrics_of(tmp_path / "new")] == [3]
    used = problems(
        tmp_path / "new", checkpoint__resume_from_checkpoint=str(done), optimization__max_epochs=4
    )
    assert "holds a run already" in used[0], "another run's state is not continued in a used folder"


def test_what_does_not_fit_is_taken_as_far_as_it_fits_where_that_is_asked_for(
    done: Path, tmp_path: Path
) -> None:
    _, message = run(
        tmp_path,
        checkpoint__resume_from_checkpoint=str(done),
        checkpoint__strict_loading=False,
        optimization__accumulation_steps=2,
        optimization__max_epochs=3,
    )
    assert (
        "not as saved, by strict_loading=false: optimization.accumulation_steps: saved 1, given 2" in message
    )
    (event,) = events_of(tmp_path, "run_resumed")
    assert event["changed"]["optimization.accumulation_steps"]["allowed"] is False


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    """Its files are cleared, torn ones included; the loggers go on under their ids."""
    for name in ("metrics.jsonl", "events.jsonl", "steps.jsonl"):
        (tmp_path / name).write_text('{"epoch": 1}\n{"epo')
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".tmp-epoch-0001-0123abcd").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    _, message = run(tmp_path, **AUTO)
    assert "resumed" not in message
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [1, 2]
    (notice,) = [n["message"] for n in events_of(tmp_path, "notice")]
    assert "begins anew" in notice and "steps.jsonl -> steps.jsonl.before-1" in notice
    assert (tmp_path / "mine.txt").exists()
    for name in ("metrics.jsonl", "events.jsonl", "steps.jsonl"):
        assert (tmp_path / f"{name}.before-1").read_text() == '{"epoch": 1}\n{"epo'
    assert not [p for p in tmp_path.rglob("*") if ".tmp-" in p.name or p.name == "steps.jsonl"]


def test_only_files_of_the_run_folder_are_cleared(tmp_path: Path) -> None:
    run_dir, other = tmp_path / "run", tmp_path / "other.safetensors"
    run_dir.mkdir()
    other.write_text("x")
    (run_dir / "metrics.jsonl").write_text("x")
    assert set_killed_aside(run_dir, config(checkpoint__model_save_path=str(other))) == [
        "metrics.jsonl -> metrics.jsonl.before-1"
    ]
    assert other.exists()


def test_lines_after_the_checkpoint_are_cut_also_a_torn_one(tmp_path: Path) -> None:
    """Metric file offsets; a line that SIGKILL tore in two."""
    steps = {"logging__step_interval": 4}
    whole, _ = run(tmp_path / "whole", optimization__max_epochs=3, **steps)
    folder = tmp_path / "killed"
    run(folder, optimization__max_epochs=3, **steps)
    (folder / "summary.json").unlink()
    newest = folder / "checkpoints" / "epoch-0003"
    for path in (*newest.iterdir(), newest):  # as if killed before its last save, after the epoch's lines
        path.unlink() if path.is_file() else path.rmdir()
    for name in ("metrics.jsonl", "steps.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"epoch": 4, "tor')
    resumed, _ = run(folder, optimization__max_epochs=3, **steps, **AUTO)
    assert metrics_of(folder) == metrics_of(tmp_path / "whole")
    assert (folder / "steps.jsonl").read_text() == (tmp_path / "whole" / "steps.jsonl").read_text()
    assert load_file(folder / "models/final_model.safetensors").keys()
    for name in ("test_loss", "val_loss", "train_flops", "steps_run"):
        assert resumed[name] == whole[name]


def test_a_finished_run_without_checkpoints_is_not_lost(tmp_path: Path) -> None:
    run(tmp_path, checkpoint__save_checkpoints=False)
    before = content(tmp_path)
    summary, message = run(tmp_path, checkpoint__save_checkpoints=False, **AUTO)
    assert summary["epochs_run"] == 2 and "nothing to do" in message
    (refused,) = problems(tmp_path, **AUTO, checkpoint__save_checkpoints=False, optimization__max_epochs=5)
    assert "is finished and kept none" in refused
    assert content(tmp_path) == before


def test_auto_without_a_folder_names_the_run_that_is_meant(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished ones, running ones, and those of another configuration are not meant."""
    monkeypatch.chdir(tmp_path)
    nothing = {"checkpoint__save_checkpoints": False, "checkpoint__save_final_model": False}
    (text,) = [p for p in _problems_without_folder() if "auto" in p]
    assert "run_dir=<folder of the run to go on with>" in text
    for name, seed, summary in (("1", 0, None), ("2", 0, "max_epochs"), ("3", 1, None), ("4", 0, "sigterm")):
        folder = tmp_path / "outputs" / "2026-01-01" / name
        folder.mkdir(parents=True)
        config(seed=seed, **nothing).to_yaml(folder / "config.yaml")
        if summary:
            (folder / "summary.json").write_text(json.dumps({"stopped_by": summary}))
    assert "is run_dir=outputs/2026-01-01/4" in _problems_without_folder(**nothing)[0]
    lock = FolderLock.take(tmp_path / "outputs" / "2026-01-01" / "4")
    assert "is run_dir=outputs/2026-01-01/1" in _problems_without_folder(**nothing)[0]
    lock.release()


def _problems_without_folder(**options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        TolariaTrainer(config(**AUTO, **options))
    return caught.value.problems


def test_looking_changes_nothing(done: Path, tmp_path: Path) -> None:
    before = content(done)
    given = config(**AUTO)
    assert find_origin(given, done).own
    assert origin_problems(given, done) == []
    assert "holds a run already (metrics.jsonl)" in origin_problems(config(), done)[0]
    assert origin_problems(given, tmp_path / "absent") == []
    (tmp_path / "checkpoints" / "epoch-0001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch-0001" / "state.json").write_text("{}")
    assert "a folder with a good checkpoint" in origin_problems(given, tmp_path)[0]
    assert content(done) == before


def test_a_dry_run_writes_nothing_and_takes_the_lock(done: Path, tmp_path: Path) -> None:
    before = content(done)
    quiet = Console(quiet=True)
    assert (
        "block1" in TolariaTrainer(config(**AUTO), run_dir=done, context=RunContext(console=quiet)).dry_run()
    )
    assert content(done) == before
    lock = FolderLock.take(done)
    with pytest.raises(ConfigError, match="is in use by process"):
        TolariaTrainer(config(**AUTO), run_dir=done, context=RunContext(console=quiet)).dry_run()
    with pytest.raises(ConfigError, match="is in use by process"):
        TolariaTrainer(
            config(**AUTO, optimization__max_epochs=3), run_dir=done, context=RunContext(console=quiet)
        ).run_training()
    lock.release()
    assert content(done) == before


def test_the_final_model_is_loaded_from_its_file_alone(done: Path, tmp_path: Path) -> None:
    """With its topology, where nothing else of the run is there."""
    file = tmp_path / "m.safetensors"
    file.write_bytes((done / "models" / "final_model.safetensors").read_bytes())
    expected, found = esper.load(done).state_dict(), esper.load(file).state_dict()
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)

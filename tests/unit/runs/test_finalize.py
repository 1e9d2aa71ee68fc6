"""A run is finished when all that it owes is on the disk; what could not be saved is named."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.command import events_of, metrics_of, summary_of
from helpers.disk import Disk
from helpers.folders import AUTO, config
from rich.console import Console

import esper
from esper.errors import ConfigError, OutputError
from esper.runs.context import RunContext
from esper.runs.trainer import TolariaTrainer
from esper.tolaria.checkpoint.checkpointer import Checkpointer
from esper.tolaria.loop import TrainingLoop


def trainer(folder: Path, message: io.StringIO | None = None, **options: Any) -> TolariaTrainer:
    given = {"optimization__max_epochs": 3}
    console = Console(file=message or io.StringIO(), width=200)
    return TolariaTrainer(config(**given | options), run_dir=folder, context=RunContext(console=console))


class Full(Disk):
    """Has no room for checkpoints from an epoch on."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def _call(self, kind: str, path: Path) -> None:
        if any(f"epoch-{epoch:04d}" in str(path) for epoch in range(self.epoch, 9)):
            raise OSError(28, "No space left on device", str(path))


@contextmanager
def full_from(epoch: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    made = Checkpointer.__init__

    def with_disk(self: Checkpointer, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        self.io = Full(epoch)

    with patch.context() as context:
        context.setattr(Checkpointer, "__init__", with_disk)
        yield


def in_way_of(file: Path) -> Path:
    """A folder at the path of a file: this write fails, and no other."""
    (file / "in_the_way").mkdir(parents=True)
    return file


def test_a_final_model_that_had_no_room_is_written_by_auto(tmp_path: Path) -> None:
    blocked = in_way_of(tmp_path / "models" / "final_model.safetensors")
    message = io.StringIO()
    with pytest.raises(OutputError) as caught:
        trainer(tmp_path, message).run_training()
    (problem,) = caught.value.problems
    assert "the final model could not be written" in problem
    assert summary_of(tmp_path)["unsaved"] == [problem]
    assert "not saved" in message.getvalue() and "the final model could not be written" in message.getvalue()
    shutil.rmtree(blocked)
    lines = metrics_of(tmp_path)
    summary = trainer(tmp_path, **AUTO).run_training()
    assert blocked.is_file() and "unsaved" not in summary and summary["epochs_run"] == 3
    assert summary_of(tmp_path) == summary and metrics_of(tmp_path) == lines
    assert "unsaved" in json.loads((tmp_path / "summary.json.before-1").read_text())


@pytest.mark.parametrize("epoch", [2, 3])
def test_epochs_that_were_not_saved_are_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    whole = trainer(tmp_path / "whole").run_training()
    folder = tmp_path / "full"
    with full_from(epoch, monkeypatch), pytest.raises(OutputError, match="No space left") as caught:
        trainer(folder).run_training()
    (problem,) = caught.value.problems
    assert problem.startswith("the last checkpoint, epoch-0003, is not saved: ")
    assert summary_of(folder)["unsaved"] == [problem] and summary_of(folder)["epochs_run"] == 3
    both = f"is of epoch {epoch - 1}, but the run reached epoch 3"
    with pytest.warns(UserWarning, match=both):
        esper.load(folder)
    tested = trainer(tmp_path / "test", mode="test", checkpoint__resume_from_checkpoint=str(folder))
    tested.run_test()
    assert [n for n in events_of(tmp_path / "test", "notice") if both in n["message"]]

    summary = trainer(folder, **AUTO).run_training()
    assert "unsaved" not in summary and metrics_of(folder) == metrics_of(tmp_path / "whole")
    assert summary["test_loss"] == whole["test_loss"]
    esper.load(folder)  # warnings are errors: there is none


def test_a_run_folder_removed_meanwhile_is_not_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, after = tmp_path / "run", TrainingLoop.epoch

    def then_removed(self: TrainingLoop) -> None:
        after(self)
        if self.progress.epoch == 2:
            self.checkpointer.flush()
            shutil.rmtree(folder)

    with monkeypatch.context() as context, pytest.raises(OutputError) as caught:
        context.setattr(TrainingLoop, "epoch", then_removed)
        trainer(folder).run_training()
    text = str(caught.value)
    assert "epoch-0003, is not saved" in text
    assert f"{folder / 'metrics.jsonl'} was removed or replaced" in text
    assert summary_of(folder)["unsaved"] == caught.value.problems
    assert (folder / "models" / "final_model.safetensors").is_file()
    summary = trainer(folder, **AUTO).run_training()
    assert "unsaved" not in summary and [line["epoch"] for line in metrics_of(folder)] == [1, 2, 3]
    assert (folder / "models" / "final_model.safetensors.before-1").is_file()


@pytest.mark.parametrize("lost", ["models/final_model.safetensors", "checkpoints/epoch-0003"])
def test_a_result_that_is_gone_is_made_again(tmp_path: Path, lost: str) -> None:
    whole = trainer(tmp_path).run_training()
    lines, path = metrics_of(tmp_path), tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = trainer(tmp_path, **AUTO).run_training()
    assert path.exists() and metrics_of(tmp_path) == lines
    assert again["test_loss"] == whole["test_loss"] and again["val_loss"] == whole["val_loss"]


@pytest.mark.parametrize("events", [True, False])
def test_auto_refuses_where_the_checkpoints_are_gone(tmp_path: Path, events: bool) -> None:
    folder = tmp_path / "run"
    trainer(folder).run_training()
    (folder / "checkpoints").rename(tmp_path / "elsewhere")
    if not events:
        (folder / "events.jsonl").unlink()
        (folder / "summary.json").unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        trainer(folder, **AUTO)
    (problem,) = caught.value.problems
    assert f"{folder / 'checkpoints'} does not exist" in problem and "put that folder back" in problem
    assert ("epoch-0003 was saved" if events else "its final model") in problem
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

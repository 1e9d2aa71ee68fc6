"""Callbacks of the user's own: when they are called, what they may do, and that their state continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import small_config
from matplotlib.figure import Figure
from rich.console import Console

from esper import Callback, TolariaTrainer
from esper.errors import CheckpointError, RecordError
from esper.kasmina import TopologyChange
from esper.runs.context import RunContext
from esper.tolaria.callbacks import Callbacks
from esper.tolaria.loop import TrainingLoop

QUIET = Console(quiet=True)
SEEDS = [{"layer": "block1", "blueprint": "conv_light", "at_epoch": 1}]


def trainer(run_dir: Path, *callbacks: Callback, epochs: int = 3, **options: Any) -> TolariaTrainer:
    given = {
        "run_dir": str(run_dir),
        "logging__log_level": "ERROR",
        "checkpoint__save_checkpoints": True,
        "checkpoint__checkpoint_frequency": 1,
        "optimization__max_epochs": epochs,
        "morphogenetic__max_params_ratio": 9.0,
        "morphogenetic__policy": {"_target_": "scheduled", "seeds": SEEDS, "judge": "keep"},
    }
    return TolariaTrainer(
        small_config(**given | options), context=RunContext(console=QUIET), callbacks=callbacks
    )


class Calls(Callback):
    """Notes each call, and counts steps in its state."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.steps = 0

    def on_train_start(self, loop: TrainingLoop) -> None:
        self.calls.append("start")

    def on_step_end(self, loop: TrainingLoop) -> None:
        self.steps += 1
        assert self.steps == loop.progress.step

    def on_topology_change(self, loop: TrainingLoop, change: TopologyChange) -> None:
        self.calls.append(("added", [key for key, _ in change.added]))

    def on_epoch_end(self, loop: TrainingLoop, metrics: Mapping[str, Any]) -> None:
        self.calls.append((metrics["epoch"], self.steps))

    def on_train_end(self, loop: TrainingLoop) -> None:
        self.calls.append(loop.progress.stopped_by)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def test_each_hook_is_called_at_its_time(tmp_path: Path) -> None:
    calls = Calls()
    run = trainer(tmp_path, calls)
    run.run_training()
    steps = run.job.run.steps_per_epoch if run.job.run else 0
    assert calls.calls == [
        "start",
        ("added", ["block1#0"]),
        (1, steps),
        (2, 2 * steps),
        (3, 3 * steps),
        "max_epochs",
    ]


class StopAt(Callback):
    def on_epoch_end(self, loop: TrainingLoop, metrics: Mapping[str, Any]) -> None:
        if metrics["epoch"] == 2:
            loop.run_control.stop("far enough")


def test_a_callback_can_end_the_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, StopAt())
    assert run.run_training()["stopped_by"] == "far enough"
    assert [line["epoch"] for line in run.history] == [1, 2]


def test_the_state_of_a_callback_continues_on_resume(tmp_path: Path) -> None:
    trainer(tmp_path, Calls(), StopAt()).run_training()
    resumed = Calls()
    resume = {"checkpoint__resume_from_checkpoint": "auto"}
    run = trainer(tmp_path, resumed, Callback(), **resume)
    with pytest.raises(CheckpointError, match=r"1-StopAt, and has 0-Calls, 1-Callback"):
        run.run_training()
    run = trainer(tmp_path, resumed, StopAt(), **resume)
    run.run_training()
    assert resumed.calls[0] == "start"
    assert resumed.calls[1][0] == 3
    assert run.job.run is not None
    assert resumed.steps == 3 * run.job.run.steps_per_epoch


def test_an_error_in_a_hook_ends_the_run(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_step_end(self, loop: TrainingLoop) -> None:
            raise ZeroDivisionError("in the hook")

    run = trainer(tmp_path, Broken())
    with pytest.raises(ZeroDivisionError, match="in the hook"):
        run.run_training()
    assert run.get_status() == "failed"


def test_a_run_with_callbacks_trains_as_one_without(tmp_path: Path) -> None:
    plain, observed = trainer(tmp_path / "plain"), trainer(tmp_path / "observed", Calls())
    losses = []
    for run in (plain, observed):
        run.run_training()
        losses.append([line["val_loss"] for line in run.history])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_the_history_and_the_plot_of_a_trainer(tmp_path: Path) -> None:
    run = trainer(tmp_path, epochs=1)
    assert run.history == []
    with pytest.raises(RecordError, match="holds no epoch"):
        run.plot()
    summary = run.run_training()
    assert run.history[0]["val_loss"] == summary["val_loss"]
    figure = run.plot()
    assert isinstance(figure, Figure)
    assert [axes.get_xlabel() for axes in figure.axes][2] == "epoch"


def test_an_empty_list_has_no_state() -> None:
    assert Callbacks().state_dict() == {}


def test_a_run_that_is_resumed_without_its_callbacks_says_so(tmp_path: Path) -> None:
    trainer(tmp_path, Calls(), epochs=1).run_training()
    resumed = trainer(tmp_path, epochs=2, checkpoint__resume_from_checkpoint="auto")
    resumed.run_training()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    notices = [event["data"]["message"] for event in events if event["name"] == "notice"]
    assert any(text.endswith("are missing, and their state: 0-Calls") for text in notices)


def test_the_metrics_of_an_epoch_cannot_be_changed(tmp_path: Path) -> None:
    class Changes(Callback):
        def on_epoch_end(self, loop: TrainingLoop, metrics: Mapping[str, Any]) -> None:
            metrics["val_loss"] = -5.0  # type: ignore[index]

    with pytest.raises(TypeError, match="does not support item assignment"):
        trainer(tmp_path, Changes(), epochs=1).run_training()

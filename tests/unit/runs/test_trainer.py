"""Esper from a notebook, without Hydra."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import same, small_config, weights
from helpers.usermodule import write_module
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import esper
from esper.errors import CheckpointError, ConfigError
from esper.models import build
from esper.runs.context import RunContext
from esper.runs.load import load
from esper.runs.trainer import TolariaTrainer

QUIET = Console(quiet=True)


def config(run_dir: Path, **options: Any) -> esper.TolariaConfig:
    given = {
        "run_dir": str(run_dir),
        "logging__log_level": "ERROR",
        "checkpoint__save_checkpoints": True,
        "checkpoint__checkpoint_frequency": 2,
        "optimization__max_epochs": 4,
        "morphogenetic__max_params_ratio": 9.0,
        "morphogenetic__seed__blend_steps": 3,
        "morphogenetic__policy": {
            "_target_": "scheduled",
            "seeds": [{"layer": "block1", "blueprint": "conv_light", "at_epoch": 1}],
            "judge": "keep",
        },
    }
    return small_config(**given | options)


def trainer(run_dir: Path, *, model: nn.Module | None = None, **options: Any) -> TolariaTrainer:
    return TolariaTrainer(config(run_dir, **options), model=model, context=RunContext(console=QUIET))


class Own(nn.Module):
    """A host of the user's own, with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.block2 = nn.Linear(64, 64, bias=False)
        self.head = nn.Linear(64, 10)
        self.block2.weight = self.block1[0].weight  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(x.flatten(1))))


OWN = {
    "morphogenetic__blueprints": ["mlp"],
    "morphogenetic__policy": {
        "_target_": "scheduled",
        "seeds": [{"layer": "block1", "blueprint": "mlp", "at_epoch": 1}],
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> TolariaTrainer:
    """A trainer whose run is over."""
    made = trainer(tmp_path_factory.mktemp("done"))
    made.run_training()
    return made


def test_a_run_gives_its_summary_and_its_folder(done: TolariaTrainer) -> None:
    folder = done.run_dir
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs_run"] == 4
    assert {"config.yaml", "metrics.jsonl", "events.jsonl", "checkpoints", "models"} <= {
        path.name for path in folder.iterdir()
    }
    assert done.get_status() == "finished"
    status = done.get_detailed_status()
    assert (status["epoch"], status["step"], status["stopped_by"]) == (4, 24, "max_epochs")
    assert status["best"]["epoch"] == summary["best_epoch"]
    assert done.model.total_params() == summary["params_final"]


def test_the_saved_model_is_the_best_one(done: TolariaTrainer) -> None:
    saved = load_file(done.run_dir / "models" / "final_model.safetensors")
    assert same({n: t for n, t in saved.items() if n != "_extra_state"}, weights(done.model))


def test_before_the_run_there_is_a_status_and_no_model(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run")
    assert made.get_status() == "created"
    assert made.get_detailed_status()["status"] == "created"
    with pytest.raises(RuntimeError, match=r"run_training\(\)"):
        _ = made.model
    assert not (tmp_path / "run").exists()


def test_a_trainer_trains_once(done: TolariaTrainer) -> None:
    with pytest.raises(RuntimeError, match="make a new one"):
        done.run_training()


def test_a_dry_run_comes_before_the_real_one(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    assert "block1: 2 slots" in made.dry_run()
    assert made.get_status() == "created"
    assert made.run_training()["epochs_run"] == 4


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path / "run", optimization__max_epochs=0, optimization__optimizer="adem")
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "run").exists()


def test_a_run_that_raises_has_failed(tmp_path: Path) -> None:
    class Breaks(Own):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise ArithmeticError("no more")
            return super().forward(x)

    made = trainer(tmp_path, model=Breaks(), **OWN)
    threads = torch.get_num_threads()
    with pytest.raises(ArithmeticError):
        made.run_training()
    assert made.get_status() == "failed"
    assert torch.get_num_threads() == threads
    assert not torch.is_anomaly_enabled()


def test_stop_ends_in_order_and_the_summary_is_of_the_best(tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        optimization__max_epochs=100_000,
        optimization__early_stopping_patience=0,
        optimization__learning_rate=3.0,  # soon worse than at its best
    )
    thread = threading.Thread(target=made.run_training)
    thread.start()
    while made.get_detailed_status().get("epoch", 0) < 8:
        time.sleep(0.01)
    made.stop()
    thread.join(timeout=30)
    assert made.get_status() == "stopped"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["stopped_by"], summary["test_accuracy"]) == ("stopped", None)
    assert summary["params_final"] == made.model.total_params()
    saved = load_file(tmp_path / "models" / "final_model.safetensors")
    best = made.job.run.best.weights  # type: ignore[union-attr]
    assert all(torch.equal(saved[name], tensor) for name, tensor in best.items())


def test_pause_and_resume(tmp_path: Path) -> None:
    made = trainer(tmp_path, optimization__max_epochs=100_000, optimization__early_stopping_patience=0)
    thread = threading.Thread(target=made.run_training)
    thread.start()
    made.pause()
    while made.get_status() != "paused":  # held before its first step
        time.sleep(0.01)
    made.resume()
    while made.get_detailed_status()["step"] < 5:
        time.sleep(0.01)
    made.stop()
    thread.join(timeout=30)
    assert not thread.is_alive()


# -- taking a run up -----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["./checkpoints", "./kept/here"])
def test_auto_takes_up_the_folders_own_newest_checkpoint(tmp_path: Path, folder: str) -> None:
    auto = {"checkpoint__resume_from_checkpoint": "auto", "checkpoint__checkpoint_dir": folder}
    first = trainer(tmp_path, optimization__max_epochs=2, **auto)  # a fresh start where it is empty
    assert first.run_training()["epochs_run"] == 2
    second = trainer(tmp_path, **auto)
    assert second.run_training()["epochs_run"] == 4
    whole = trainer(tmp_path.with_name(f"{tmp_path.name}_whole"))
    whole.run_training()
    # the schedule was made for two epochs first, so the numbers differ; the lines must not
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]
    names = [json.loads(line)["name"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert names.count("run_resumed") == 1


def test_the_thread_count_of_the_saved_run_is_set_again(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    trainer(tmp_path / "a", trainer__num_threads=threads + 1, optimization__max_epochs=2).run_training()
    assert torch.get_num_threads() == threads
    made = trainer(tmp_path / "b", checkpoint__resume_from_checkpoint=str(tmp_path / "a"))
    assert made.run_training()["threads"] == threads + 1
    assert torch.get_num_threads() == threads
    events = (tmp_path / "b" / "events.jsonl").read_text()
    assert "may not repeat" not in events
    other = trainer(
        tmp_path / "c", checkpoint__resume_from_checkpoint=str(tmp_path / "a"), trainer__num_threads=threads
    )
    other.run_training()
    assert "may not repeat" in (tmp_path / "c" / "events.jsonl").read_text()


def test_a_test_run_reads_the_same_numbers(done: TolariaTrainer, tmp_path: Path) -> None:
    was = json.loads((done.run_dir / "summary.json").read_text())
    made = trainer(tmp_path, mode="test", checkpoint__resume_from_checkpoint=str(done.run_dir))
    now = made.run_test()
    assert (now["test_loss"], now["test_accuracy"]) == (was["test_loss"], was["test_accuracy"])
    assert now["best_epoch"] == was["best_epoch"]


# -- load ----------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_best(done: TolariaTrainer) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    model = load(done.run_dir)
    assert torch.equal(torch.rand(3), expected)
    assert not model.training
    assert same(weights(model), weights(done.model))
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(model(x), done.model.eval()(x))
    newest = max((done.run_dir / "checkpoints").iterdir())
    assert same(weights(load(newest)), weights(model))


def test_a_model_of_ones_own_is_loaded_into_one(tmp_path: Path) -> None:
    made = trainer(tmp_path, model=Own(), **OWN)
    summary = made.run_training()
    assert summary["adaptations"]["applied"] >= 1
    loaded = load(tmp_path, model=Own())
    assert same(weights(loaded), weights(made.model))
    with pytest.raises(CheckpointError, match=r"load\(\.\.\., model=\.\.\.\)"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model that was given"):
        load(tmp_path, model=nn.Sequential())


def test_loading_needs_neither_the_data_nor_the_first_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
import torch
class Points:
    def __init__(self, size=90):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(size, 1, 8, 8, generator=generator)
        self.targets = [n % 10 for n in range(size)]
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        return self.x[index], self.targets[index]
"""
    write_module(tmp_path, "esper_points", source, monkeypatch)
    first = tmp_path / "first.safetensors"
    host = build("convnet", num_classes=10, channels=1, image_size=(8, 8), widths=[4, 8])
    save_file(host.state_dict(), first)
    made = trainer(
        tmp_path / "run",
        dataset__name="esper_points.Points",
        dataset__validation_split=0.3,
        dataset__num_workers=0,
        model__pretrained=str(first),
        allowed_targets=["esper_points"],
    )
    made.run_training()
    first.unlink()
    (tmp_path / "esper_points.py").unlink()
    assert same(weights(load(tmp_path / "run")), weights(made.model))


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "torn"])
def test_what_cannot_be_loaded_says_why(done: TolariaTrainer, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("x")
    elif kind == "torn":
        path.mkdir()
        newest = max((done.run_dir / "checkpoints").iterdir())
        for file in newest.iterdir():
            content = file.read_bytes()
            (path / file.name).write_bytes(content[: len(content) // 2] if "best" in file.name else content)
    with pytest.raises(CheckpointError, match="there"):
        load(path)

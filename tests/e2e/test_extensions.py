"""The user's own trainer, model, callbacks and loggers, named by targets on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.command import esper_train, metrics_of, summary_of
from helpers.usermodule import write_module

SOURCE = """
import torch
from esper import Callback, TolariaTrainer
from esper.loggers import Logger

class Net(torch.nn.Module):
    def __init__(self, num_classes, hidden=8):
        super().__init__()
        self.fc1 = torch.nn.Linear(64, hidden)
        self.fc2 = torch.nn.Linear(hidden, num_classes)
    def forward(self, images):
        return self.fc2(torch.relu(self.fc1(images.flatten(1))))

class Trainer(TolariaTrainer):
    def run_training(self):
        summary = super().run_training()
        (self.run_dir / "trainer.txt").write_text(f"{type(self.model.host).__name__} {summary['stopped_by']}")
        return summary

class Bare(TolariaTrainer):
    def __init__(self, config):
        super().__init__(config)

class StopAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs
    def on_epoch_end(self, loop, metrics):
        if metrics["epoch"] >= self.epochs:
            loop.run_control.stop("enough")

class Lines(Logger):
    def __init__(self, file):
        self.file = file
        self.lines = []
    def epoch(self, record):
        self.lines.append(f"{record['epoch']} {record['val_loss']!r}")
    def finish(self, summary):
        self.lines.append(summary["stopped_by"])
    def close(self):
        with open(self.file, "w") as file:
            file.write("\\n".join(self.lines))
"""
ALLOWED = "allowed_targets=[esper_lab]"
MODEL = ("model._target_=esper_lab.Net", "model.target_layers=[fc1]")


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, "esper_lab", SOURCE, monkeypatch)
    monkeypatch.chdir(tmp_path)


def test_all_of_them_in_one_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    esper_train(
        *MODEL,
        "+model.hidden=12",
        "trainer._target_=esper_lab.Trainer",
        "callbacks.stop._target_=esper_lab.StopAfter",
        "callbacks.stop.epochs=2",
        "logging.loggers.lines._target_=esper_lab.Lines",
        "logging.loggers.lines.file=lines.txt",
        "optimization.max_epochs=5",
        ALLOWED,
        f"run_dir={run}",
        cwd=tmp_path,
    )
    rows = metrics_of(run)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert summary_of(run)["params_host"] == 64 * 12 + 12 + 12 * 10 + 10
    assert (run / "trainer.txt").read_text() == "Net enough"
    lines = [f"{row['epoch']} {row['val_loss']!r}" for row in rows]
    assert (tmp_path / "lines.txt").read_text().split("\n") == [*lines, "enough"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ("trainer._target_=esper_lab.Net", ALLOWED),
            "trainer._target_: given 'esper_lab.Net', expected a subc",
        ),
        (
            ("trainer._target_=esper_lab.Trainer",),
            "trainer._target_: given 'esper_lab.Trainer', expected a targ",
        ),
        (
            (*MODEL, "+model.hiden=3", ALLOWED),
            "model.model_params.hiden: given 3, expected an argument of esper_",
        ),
        (
            ("callbacks.a._target_=esper_lab.Net", "callbacks.a.num_classes=2", ALLOWED),
            "callbacks.a._target_: given 'esper_lab.Net', expected the name of a subclass of esper.Callback",
        ),
        (
            ("logging.loggers.a._target_=esper_lab.Net", "logging.loggers.a.num_classes=2", ALLOWED),
            "logging.loggers.a._target_: given 'esper_lab.Net', expected the name of a subclass of esper.log",
        ),
        (
            ("trainer._target_=esper_lab.Bare", ALLOWED),
            "trainer._target_: given 'esper_lab.Bare', expected a subclass that takes the arguments",
        ),
        (("callbacks.stop=3",), "callbacks.stop: given 3, expected a dictionary with _target_"),
        (
            ("callbacks.a._target_=os.system",),
            "callbacks.a._target_: given 'os.system', expected a target in one",
        ),
        (
            ("callbacks.a._target_=esper_lab.StopAfter", ALLOWED),
            "callbacks.a.epochs: given no value, expected one: esper_lab.StopAfter cannot do without",
        ),
        (
            ("logging.loggers.a._target_=esper_lab.Lines", "logging.loggers.a.path=x", ALLOWED),
            "logging.loggers.a.path: given 'x', expected an argument of esper_lab.Lines",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_folder_is_made(
    arguments: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    done = esper_train(*arguments, f"run_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr
    assert not (tmp_path / "run").exists()


IMPORTABLE = "expected a class in a module that can be imported"


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("model._target_", "pass one of a notebook or script to TolariaTrainer(model=...)"),
        ("model.architecture", "pass one of a notebook or script to TolariaTrainer(model=...)"),
        ("dataset._target_", "pass one of a notebook or script to TolariaTrainer(train_data=...)"),
        ("callbacks.stop._target_", "pass one of a notebook or script to TolariaTrainer(callbacks=...)"),
        ("morphogenetic.policy._target_", "write it to a file"),
        ("optimization.loss_function", "write it to a file"),
    ],
)
def test_a_class_of_main_is_refused_under_the_key_that_was_written(
    key: str, instead: str, tmp_path: Path
) -> None:
    done = esper_train(f"{key}=__main__.Own", f"run_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "esper-train: 1 problem in the configuration",
        f"  {key}: given '__main__.Own', {IMPORTABLE}: {instead}",
    ]


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("model._target_", "esper_lab.Nett"),
        ("model._target_", "esper_lab.StopAfter"),
        ("dataset._target_", "esper_lab.Nowhere"),
        ("dataset.name", "esper_lab.Nowhere"),
    ],
)
def test_a_target_that_cannot_be_used_is_refused_under_the_key_that_was_written(
    key: str, written: str, tmp_path: Path
) -> None:
    done = esper_train(f"{key}={written}", "+model.epochs=1", ALLOWED, "dry_run=true", cwd=tmp_path)
    assert done.returncode == 2
    assert f"\n  {key}: given '{written}', expected" in done.stderr

"""The outputs at the end of a run with a full disk: what could not be written is reported in one block."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.runs import small_config
from rich.console import Console
from safetensors.torch import save_file
from torch import ones

import esper
from esper.cli.jobs import UNSAVED, run_planned
from esper.errors import CheckpointError, OutputError
from esper.runs.context import RunContext
from esper.runs.outputs import BestEffortWriter
from esper.runs.trainer import TolariaTrainer

QUICK = {"optimization__max_epochs": 1, "morphogenetic__tamiyo_enabled": False, "logging__log_level": "ERROR"}


def trainer(folder: Path, **options: object) -> TolariaTrainer:
    return TolariaTrainer(
        small_config(**QUICK | options), run_dir=folder, context=RunContext(console=Console(quiet=True))
    )


def test_what_can_be_written_is_and_the_rest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder where a file belongs stands for a full disk: the write fails, and nothing else."""
    run = tmp_path / "run"
    (run / "models" / "final_model.safetensors" / "in_the_way").mkdir(parents=True)
    (run / "training_metrics.json" / "in_the_way").mkdir(parents=True)
    codes = []

    def job() -> int:
        with pytest.raises(OutputError) as caught:
            trainer(run).run_training()
        codes.append(len(caught.value.problems))
        raise caught.value

    assert run_planned(job, run, None, []) == UNSAVED
    message = capsys.readouterr().err
    assert codes == [2]
    assert message.startswith("esper-train: 2 problems in writing to ") and "Traceback" not in message
    assert "the final model could not be written" in message and "the summary of the metrics" in message
    assert not (run / "crash.txt").exists()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["epochs_run"] == 1
    assert [text.split(" could")[0] for text in summary["unsaved"]] == [
        "the final model",
        "the summary of the metrics",
    ]
    assert json.loads((run / "status.json").read_text())["exit_code"] == UNSAVED
    assert not [p for p in run.rglob("*") if ".tmp-" in p.name]
    assert not (run / "run.lock").exists() and not (run / "control.json").exists()


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        trainer(tmp_path / name).run_training()
        files.append((tmp_path / name / "models" / "final_model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_errors_of_a_disk_are_collected_and_others_are_not() -> None:
    attempt = BestEffortWriter()
    attempt.check()
    with attempt("one"):
        raise OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError), attempt("two"):
        raise ZeroDivisionError
    with attempt("three"):
        pass
    with pytest.raises(OutputError, match=r"one could not be written: .*No space left"):
        attempt.check()


def test_a_file_of_bare_weights_is_not_loaded(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"w": ones(2)}, file)
    with pytest.raises(CheckpointError, match="holds weights, but not of which model; expected a run folder"):
        esper.load(file)

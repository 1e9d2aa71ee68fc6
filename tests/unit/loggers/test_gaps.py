"""What a run's files have lost since it was saved is named at the resume, and never ends it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import events_of, metrics_of
from helpers.runs import small_config
from rich.console import Console

from esper.loggers import describe_gaps
from esper.runs.context import RunContext
from esper.runs.trainer import TolariaTrainer

LINES = b"".join(b'{"epoch": %d}\n' % epoch for epoch in range(1, 9))
SAVED = {"metrics.jsonl": len(LINES)}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (LINES, ""),
        (LINES + b'{"epoch": 9}\n{"torn', ""),
        (None, "metrics.jsonl is missing (epochs 1 to 8 not in it)"),
        (LINES[:52], "metrics.jsonl has 52 of the 104 bytes that it had (epochs 5 to 8 not in it)"),
        (LINES[:-1], "metrics.jsonl has 103 of the 104 bytes that it had (epoch 8 not in it)"),
        (
            LINES.replace(b'h": 2', b'\xff": 2').replace(b'"epoch": 5}', b'"epoch": 5{'),
            "metrics.jsonl is damaged in line 2, 5 (epochs 2, 5 not in it)",
        ),
    ],
)
def test_missing_epochs_are_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    assert describe_gaps(tmp_path, SAVED, 8) == what


def test_only_epochs_that_were_due_are_missing(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"name": "run_started", "epoch": 3, "data": {}}\n')
    assert (
        describe_gaps(tmp_path, SAVED, 8, interval=2) == "metrics.jsonl is missing (epochs 4, 6, 8 not in it)"
    )


def test_other_files_are_named_too(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"{}\n{]\n")
    found = describe_gaps(tmp_path, {"events.jsonl": 6, "steps.jsonl": 7, "metrics.jsonl": 0}, 1)
    assert found == "events.jsonl is damaged in line 2; steps.jsonl is missing"


def remove(file: Path) -> None:
    file.unlink()


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil(file: Path) -> None:
    file.write_bytes(b"\xff" + file.read_bytes()[1:])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "run"
    train(folder, 2)
    return folder


def train(folder: Path, epochs: int, **options: object) -> None:
    given = {
        "logging__log_level": "ERROR",
        "logging__step_interval": 2,
        "checkpoint__save_checkpoints": True,
        "optimization__max_epochs": epochs,
        "morphogenetic__tamiyo_enabled": False,
    }
    config = small_config(**given | options)
    TolariaTrainer(config, run_dir=folder, context=RunContext(console=Console(quiet=True))).run_training()


@pytest.mark.parametrize("harm", [remove, halve, spoil])
def test_a_run_goes_on_with_damaged_records_and_says_so(
    done: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    for name in ("metrics.jsonl", "events.jsonl", "steps.jsonl"):
        harm(folder / name)
    train(folder, 3, checkpoint__resume_from_checkpoint="auto")
    if harm is spoil:  # a damaged line that no checkpoint has a copy of stands
        file = folder / "events.jsonl"
        file.write_bytes(file.read_bytes().partition(b"\n")[2])
    restored, holes = [
        text for text in (n["message"] for n in events_of(folder, "notice")) if ".jsonl" in text
    ]
    assert "metrics.jsonl" in restored and "its epochs are restored from the checkpoint" in restored
    assert holes.startswith("the records of this run") and "metrics.jsonl" not in holes
    assert "events.jsonl" in holes and "steps.jsonl" in holes
    lines = metrics_of(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3] and lines[:2] == metrics_of(done)
    assert json.loads((folder / "training_metrics.json").read_text())["epochs"] == 3
    assert (folder / "run.png").exists()
    kept = [path.read_bytes() for path in folder.glob("metrics.jsonl.before-*")]
    damaged = shutil.copy(done / "metrics.jsonl", tmp_path)
    harm(Path(damaged))
    assert kept == ([] if harm is remove else [Path(damaged).read_bytes()])

"""One job: it leaves the process as it found it, and says what it does without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import small_config
from rich.console import Console

from esper.runs.checked_run import check
from esper.runs.context import RunContext
from esper.runs.job import Job, idle_options, process_settings


def job(run_dir: Path, **options: Any) -> Job:
    quick = {"logging__log_level": "ERROR", "morphogenetic__tamiyo_enabled": False}
    return Job(
        check(small_config(**quick | options), run_dir), context=RunContext(console=Console(quiet=True))
    )


def settings() -> tuple[int, bool, bool]:
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
    )


def test_settings_hold_within_and_are_put_back() -> None:
    before = settings()
    wanted = before[0] + 1
    changed = small_config(trainer__num_threads=wanted, trainer__deterministic=True, debug_mode=True)
    with pytest.raises(KeyError), process_settings(changed):
        assert settings() == (wanted, True, True)
        raise KeyError("a run that fails")
    assert settings() == before


def test_jobs_after_one_another_have_the_numbers_of_jobs_alone(tmp_path: Path) -> None:
    """X2 in little: loggers, generators and settings do not leak."""
    lines = []
    for number, seed in enumerate((0, 1, 0)):
        with job(tmp_path / str(number), seed=seed) as made:
            made.train()
        text = (tmp_path / str(number) / "metrics.jsonl").read_text()
        lines.append([json.loads(line)["val_loss"] for line in text.splitlines()])
    assert lines[0] == lines[2] != lines[1]


def test_a_job_leaves_nothing_open_when_it_fails(tmp_path: Path) -> None:
    before = settings()
    made = job(tmp_path, debug_mode=True)
    with pytest.raises(ZeroDivisionError), made:
        made.prepare()
        raise ZeroDivisionError
    assert made.failed
    assert settings() == before
    assert not (tmp_path / "summary.json").exists()


def test_a_picture_that_cannot_be_drawn_is_a_notice(tmp_path: Path) -> None:
    (tmp_path / "run.png").mkdir()
    with job(tmp_path) as made:
        made.train()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    (notice,) = [event for event in events if event["name"] == "notice"]
    assert "the picture of the run" in notice["data"]["message"]
    assert (tmp_path / "summary.json").exists()


def test_idle_and_unrepeatable_options_are_named() -> None:
    assert idle_options(small_config()) == []
    (off,) = idle_options(small_config(morphogenetic__tamiyo_enabled=False))
    assert "tamiyo_enabled is false" in off
    (clock,) = idle_options(small_config(morphogenetic__adaptation_cooldown=30.0))
    assert "cannot be repeated exactly" in clock

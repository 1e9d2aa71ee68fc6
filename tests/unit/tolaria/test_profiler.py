"""A bounded window, a trace with a name of its own, and no failure that reaches the loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.runs import make_run, notes_of, same, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.tolaria.profiler import StepProfiler


def profile(folder: Path, *, active: int, steps: int, failures: list[str]) -> StepProfiler:
    profiler = StepProfiler(folder, active, failures.append)
    for _ in range(steps):
        torch.ones(8, 8) @ torch.ones(8, 8)
        profiler.step()
    profiler.close()
    return profiler


def test_a_trace_and_a_table_come_out(tmp_path: Path) -> None:
    failures: list[str] = []
    profiler = profile(tmp_path / "new" / "folder", active=2, steps=20, failures=failures)
    assert (profiler.emitted, profiler.failed, failures) == (1, 0, [])
    (trace,) = (tmp_path / "new" / "folder").glob("*.json")
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::matmul" for event in events) == 2  # the window, and no step more
    assert "aten::matmul" in trace.with_suffix(".txt").read_text()


def test_names_never_repeat(tmp_path: Path) -> None:
    for _ in range(3):
        profile(tmp_path, active=1, steps=5, failures=[])
    assert len(list(tmp_path.glob("*.json"))) == 3


@given(st.integers(0, 8))
@settings(max_examples=9)
def test_it_can_end_at_any_step(tmp_path_factory: pytest.TempPathFactory, steps: int) -> None:
    failures: list[str] = []
    profiler = profile(tmp_path_factory.mktemp("p"), active=3, steps=steps, failures=failures)
    assert failures == []
    assert profiler.emitted == int(steps >= StepProfiler.WARMUP_STEPS)
    profiler.close()  # twice is once


@pytest.mark.parametrize("steps", [4, 20])
def test_a_folder_that_is_a_file_is_reported_and_counted(tmp_path: Path, steps: int) -> None:
    folder, failures = tmp_path / "taken", []  # type: ignore[var-annotated]
    folder.write_text("here first")
    profiler = profile(folder, active=2, steps=steps, failures=failures)
    assert (profiler.emitted, profiler.failed, len(failures)) == (0, 1, 1)
    assert "taken" in failures[0]
    good: list[str] = []
    assert profile(tmp_path / "other", active=1, steps=5, failures=good).emitted == 1  # of a later run
    assert good == []


def test_a_run_whose_export_fails_is_the_same_run(tmp_path: Path) -> None:
    """An event, no crash, and no second training of the epoch."""
    (tmp_path / "profiler").write_text("here first")
    options = {
        "profile_training": True,
        "trainer__profiler_dir": "profiler",
        "trainer__profiler_active_steps": 2,
    }
    run, plain = make_run(tmp_path, **options), make_run(tmp_path / "plain")
    run.train()
    plain.train()
    (event,) = notes_of(run).named("tolaria.profiler.export_failed")
    assert (event.level, event.step) == ("warning", 5)
    assert notes_of(run).comparable() == notes_of(plain).comparable()
    assert same(weights(run.model), weights(plain.model))


def test_a_run_leaves_its_trace_in_the_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path, profile_training=True, trainer__profiler_dir="profiler")
    run.train()
    assert len(list((tmp_path / "profiler").glob("*.json"))) == 1

"""A record for each epoch and for the steps that were asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs import CPU, Notes, PlannedPolicy, germinate, make_run, notes_of
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import EPOCH_METRICS
from esper.tolaria.records import StepMetrics


@given(st.integers(0, 7), st.integers(1, 40))
def test_every_so_manieth_step_has_a_meter(interval: int, steps: int) -> None:
    step_metrics = StepMetrics(interval, CPU)
    found = [step for step in range(1, steps + 1) if step_metrics.meter(step) is not None]
    assert found == ([] if interval == 0 else list(range(interval, steps + 1, interval)))


def test_lines_are_passed_on_once() -> None:
    step_metrics, notes = StepMetrics(1, CPU), Notes()
    meter = step_metrics.meter(1)
    assert meter is not None
    output, targets = torch.eye(4), torch.tensor([0, 1, 2, 0])
    meter.add(torch.tensor(0.5), output, targets, 4)
    step_metrics.add(1, meter, torch.tensor(2.0))
    step_metrics.flush(notes)
    step_metrics.flush(notes)
    assert notes.steps == [{"step": 1, "loss": 0.5, "accuracy": 0.75, "grad_norm": 2.0}]


def test_steps_are_recorded_at_their_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path, logging__step_interval=4, optimization__accumulation_steps=2)
    run.train()
    notes = notes_of(run)
    assert [line["step"] for line in notes.steps] == [4, 8]  # of nine
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in notes.steps)
    assert notes.places == [1, 2, 3] * 3  # progress is reported by steps, not by batches


def test_nothing_is_recorded_where_nothing_is_tracked(tmp_path: Path) -> None:
    run = make_run(tmp_path, logging__step_interval=1, logging__track_metrics=False)
    run.train()
    assert (notes_of(run).steps, notes_of(run).epochs) == ([], [])
    assert run.step_metrics._pending == []  # nor kept for a reader that never comes


def test_an_epoch_has_the_names_of_leyline_and_its_seeds(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        tamiyo=PlannedPolicy({1: [germinate()]}),
        optimization__scheduler="none",
        morphogenetic__max_params_ratio=9.0,
        morphogenetic__seed__blend_steps=8,
    )
    run.train()
    first, second, _ = notes_of(run).epochs
    assert set(EPOCH_METRICS) < set(first)
    assert (first["epoch"], first["step"], first["learning_rate"]) == (1, 6, pytest.approx(0.01))
    assert first["morphogenetic_active"] is True
    assert (first["total_seeds"], second["active_seeds"]) == (4, 1)
    assert second["seeds"] == [
        {"layer": "block1", "seed": 0, "blueprint": "conv_light", "stage": "blending", "alpha": 0.75}
    ]
    assert second["params"] == run.model.total_params() > run.model.host_params()
    assert second["kernel_executions"] > first["kernel_executions"] == 0
    assert 0 <= first["train_accuracy"] <= 1
    assert first["epoch_time"] > 0


def test_without_tamiyo_growth_is_reported_as_off(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.train()
    assert [line["morphogenetic_active"] for line in notes_of(run).epochs] == [False] * 3

"""Conflicts are counted without a synchronisation, and logged once per epoch."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.runs import CPU, Notes
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.events import Telemetry
from esper.tolaria.gradients import ConflictStats
from esper.tolaria.gradients.aggregator import Combined

OPPOSED = torch.tensor([[1.0, -0.5, 0.2], [-0.5, 1.0, -0.1], [0.2, -0.1, 1.0]], dtype=torch.float64)
FRIENDLY = torch.ones(2, 2, dtype=torch.float64)


def test_conflicts_of_steps_add_up() -> None:
    conflict_stats, notes = ConflictStats(CPU, threshold=0.9), Notes()
    conflict_stats.microbatches = 5
    weights = torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64)
    conflict_stats.add(OPPOSED, Combined([], weights, torch.tensor(True)), 3)
    assert {name: value.item() for name, value in conflict_stats.last().items()} == {
        "conflicts": 2.0,
        "conflict_ratio": pytest.approx(2 / 3),
        "grad_conflict_rate": 1.0,
    }
    conflict_stats.add(FRIENDLY, Combined([], torch.ones(2, dtype=torch.float64), torch.tensor(False)), 2)
    conflict_stats.add(None, Combined([]), 2)
    found = conflict_stats.flush(Telemetry(notes))
    assert found == {
        "microbatches_total": 5,
        "steps": 3,
        "conflicts": 2,
        "conflict_ratio": pytest.approx(2 / 5),
        "grad_conflict_rate": pytest.approx(1 / 3),
        "weights_mean": pytest.approx(1.25),
        "pcgrad_applied": 1,
    }
    assert [(e.name, e.level) for e in notes.events] == [("tolaria.grad_agg", "debug")]
    conflict_stats.begin()
    assert conflict_stats.last() == {}


def test_a_new_epoch_begins_at_zero_but_for_the_total() -> None:
    conflict_stats, notes = ConflictStats(CPU, threshold=0.9), Notes()
    conflict_stats.microbatches = 2
    conflict_stats.add(OPPOSED, Combined([], [0.2, 0.3, 0.5]), 3)
    conflict_stats.flush(Telemetry(notes))
    second = conflict_stats.flush(Telemetry(notes))
    assert (second["microbatches_total"], second["conflicts"], second["weights_mean"]) == (2, 0, None)


@pytest.mark.parametrize(("threshold", "logged"), [(0.5, 1), (0.7, 0)])
def test_many_conflicts_are_an_event(threshold: float, logged: int) -> None:
    conflict_stats, notes = ConflictStats(CPU, threshold), Notes()
    conflict_stats.add(OPPOSED, Combined([]), 3)
    conflict_stats.flush(Telemetry(notes))
    assert len(notes.named("grad_conflict_high")) == logged


def test_an_aggregation_that_never_has_several_tasks_says_so_once() -> None:
    """An option without effect is logged."""
    conflict_stats, notes = ConflictStats(CPU, 0.5), Notes()
    conflict_stats.flush(Telemetry(notes))
    conflict_stats.flush(Telemetry(notes))
    assert [("trainer.aggregation is idle" in e.data["notes"]) for e in notes.named("option_idle")] == [True]


@given(st.lists(st.integers(0, 999), min_size=1, max_size=5), st.integers(2, 8))
def test_the_ratio_lies_in_zero_to_one(seeds: list[int], count: int) -> None:
    """Also over steps; the rate may pass 1."""
    conflict_stats = ConflictStats(CPU, 1.0)
    for seed in seeds:
        vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        conflict_stats.add(vectors @ vectors.T, Combined([]), count)
    found = conflict_stats.flush(Telemetry(Notes()))
    assert 0 <= found["conflict_ratio"] <= 1
    assert found["grad_conflict_rate"] == pytest.approx(found["conflict_ratio"] * count / 2)


def test_an_overflow_is_no_conflict() -> None:
    conflict_stats = ConflictStats(CPU, 1.0)
    conflict_stats.add(torch.full((2, 2), math.nan, dtype=torch.float64), Combined([]), 2)
    assert conflict_stats.flush(Telemetry(Notes()))["conflicts"] == 0


def test_half_an_epoch_goes_into_a_checkpoint_and_back() -> None:
    whole, half, other = (ConflictStats(CPU, 1.0) for _ in range(3))
    for conflict_stats in (whole, half):
        conflict_stats.microbatches += 3
        conflict_stats.add(OPPOSED, Combined([], [1.0, 1.0, 1.0]), 3)
    other.load_state_dict(half.state_dict())
    for conflict_stats in (whole, other):
        conflict_stats.add(FRIENDLY, Combined([], [1.0, 0.5]), 2)
    assert whole.flush(Telemetry(Notes())) == other.flush(Telemetry(Notes()))

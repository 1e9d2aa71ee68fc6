"""The tables of results, from rows made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from growth_arms.arms import ESPER, RANDOM, SCHEDULED, SCRATCH, STATIC_BIG, SWEEP
from growth_arms.notes import notes
from growth_arms.plot import draw
from growth_arms.rows import Row
from growth_arms.table import report
from growth_arms.tasks import G1, G2


def row(arm: str, seed: int, test: float, **changes: object) -> Row:
    made: Row = {
        "task": "G1",
        "arm": arm,
        "seed": seed,
        "test": test,
        "val": test + 0.01,
        "val_curve": [0.8, 0.86, 0.87, 0.9],
        "params": 40_000,
        "param_epochs": 500_000.0,
        "flops": 1e12,
        "cpu_s": 10.0,
        "overhead_s": {"growth": 0.5, "decisions": 0.1, "health": 0.2},
    }
    return made | changes


def ten(arm: str, mean: float, **changes: object) -> list[Row]:
    return [row(arm, seed, mean + (seed - 4.5) / 1000, **changes) for seed in range(10)]


def test_means_spreads_and_tests_stand_in_the_report() -> None:
    control = [row(RANDOM, seed, 0.88 + seed % 3 / 1000) for seed in range(10)]
    text = report([G1], [*control, *ten(ESPER, 0.89), *ten(SCHEDULED, 0.89)])
    assert "| esper | 10 | 89.00 +- 0.30 | 90.00 +- 0.30 | 40,000 | 500 | 1 | 10.0 |" in text
    against = {
        line.split(" | ")[1]: line.split(" | ") for line in text.splitlines() if line.startswith("| G1")
    }
    assert against[RANDOM][2:4] == ["10", "+0.91"]
    assert float(against[RANDOM][4]) < 0.001
    assert float(against[RANDOM][5]) == pytest.approx(2 * float(against[RANDOM][4]), rel=0.1)
    assert against[SCHEDULED][4:6] == ["1", "1"]  # equal in every run


def test_pairs_are_the_seeds_that_both_have() -> None:
    text = report([G1], [row(ESPER, 0, 0.9), row(ESPER, 1, 0.8), row(RANDOM, 1, 0.7), row(RANDOM, 2, 0.1)])
    assert "| G1 | random | 1 | +10.00 | nan | nan | 0.5 |" in text


def test_the_rank_is_among_the_swept() -> None:
    swept = [row(SWEEP, n, 0.85 + n / 1000) for n in range(30)]
    text = notes(G1, [*swept, *ten(ESPER, 0.8705)])
    assert "among 30 random topologies from scratch esper's mean is at percentile 70" in text
    assert "the best of them reached 87.90 %" in text


def test_time_to_an_accuracy_is_the_first_epoch_that_reaches_it() -> None:
    never = row(RANDOM, 0, 0.8, val_curve=[0.5, 0.6])
    text = notes(G1, [never, row(RANDOM, 1, 0.8), row(ESPER, 0, 0.8, val_curve=[0.87, 0.8])])
    assert "G1: epochs to 87 % on validation: random 3.0 (1 never), esper 1.0" in text
    assert "epochs to" not in notes(G2, [row(RANDOM, 1, 0.8)])


def test_overhead_is_what_growth_costs_above_the_random_arm() -> None:
    dear = {"growth": 1.5, "decisions": 0.9, "health": 0.3, "lookahead": 0.6}
    text = notes(G1, [*ten(RANDOM, 0.8), *ten(ESPER, 0.9, overhead_s=dear, cpu_s=12.0)])
    assert "CPU time of esper above the random arm (10.0 s): health and decisions +3.0 %" in text
    assert "all of growth +10.0 %, the whole run +20 %" in text


def test_the_price_of_growing_beside_starting_grown() -> None:
    text = notes(G1, [*ten(ESPER, 0.9, flops=0.9e12), *ten(SCRATCH, 0.9)])
    assert "esper used 0.90 of the FLOPs of its final topology from scratch" in text


def test_runs_over_a_cap_are_named() -> None:
    text = notes(G1, [row(ESPER, 3, 0.9, param_epochs=535_001.0), row(RANDOM, 4, 0.9, params=55_051)])
    assert "over a cap: random 4 (params 5.51e+04), esper 3 (param_epochs 5.35e+05)" in text
    rows = [row(STATIC_BIG, 0, 0.9, flops=1.0), row(ESPER, 0, 0.9, flops=2.0, params=9)]
    assert "over a cap: esper 0 (flops 2)" in notes(G2, rows)
    assert "over a cap" not in notes(G1, rows)


def test_there_are_no_notes_without_runs() -> None:
    assert notes(G1, []) == ""


@pytest.mark.parametrize("name", ["growth.png", "growth.svg"])
def test_a_picture_is_drawn(tmp_path: Path, name: str) -> None:
    file = tmp_path / "deep" / name
    draw([G1, G2], [*ten(ESPER, 0.9), row(SWEEP, 0, 0.8), row(RANDOM, 0, 0.8) | {"task": "G2"}], file)
    assert file.stat().st_size > 5_000

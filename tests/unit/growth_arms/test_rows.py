from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import growth_arms
import pytest
from growth_arms.arms import ESPER, RANDOM, SCRATCH, STATIC_BIG, STATIC_SMALL, SWEEP, Spec, arm_hash
from growth_arms.pool import keys, result_line, run_missing
from growth_arms.rows import Row, append_row, chosen, key_of, perform, read_rows
from growth_arms.tasks import G3, Task
from growth_arms.topology import final_topology

SHORT = replace(
    G3,
    shared=(*G3.shared[:-1], "optimization.max_epochs=3"),
    plan=(
        {
            "layer": "body",
            "blueprint": "mlp",
            "placement": "parallel",
            "at_epoch": 1,
            "options": {"hidden": 4},
        },
    ),
)


@pytest.fixture(scope="module")
def grown() -> Row:
    """A whole run of three epochs by the plan, for the tests to look at: about two seconds."""
    return perform(Spec(SHORT, "scheduled", 0, "heuristic"))


def test_a_row_tells_result_cost_and_seeds(grown: Row) -> None:
    assert (grown["task"], grown["arm"], grown["seed"]) == ("G3", "scheduled", 0)
    assert len(grown["val_curve"]) == 3
    assert grown["val"] == max(grown["val_curve"])
    assert 0.05 < grown["test"] < 1.0
    assert [seed["blueprint"] for seed in grown["seeds"]] == ["mlp"]
    assert grown["params_last"] > SHORT.host_params
    # one epoch of the host, two with the seed
    assert grown["param_epochs"] == pytest.approx(SHORT.host_params + 2 * grown["params_last"])
    assert {"growth", "decisions", "health"} <= grown["overhead_s"].keys()
    assert 0 < grown["overhead_s"]["health"] <= grown["overhead_s"]["growth"] < grown["cpu_s"]


def test_the_same_topology_from_scratch_is_there_from_the_first_step(grown: Row) -> None:
    topology = tuple(final_topology(grown["seeds"]))
    row = perform(Spec(SHORT, SCRATCH, 0, "heuristic", topology))
    assert row["params"] == row["params_last"] == grown["params_last"]
    assert row["param_epochs"] == pytest.approx(3 * row["params"])
    assert row["flops"] > grown["flops"]
    assert row["overhead_s"] == {}
    assert row["topology"] == list(topology)


def test_a_swept_topology_is_as_large_as_the_cap_allows() -> None:
    row = perform(Spec(SHORT, SWEEP, 4, "heuristic"))
    room = SHORT.max_params - SHORT.host_params
    assert SHORT.host_params + room / 2 <= row["params"] <= SHORT.max_params
    assert row["topology"]


def finished(key: tuple[str, str, int, str]) -> Row:
    task, arm, seed, digest = key
    return {"task": task, "arm": arm, "seed": seed, "hash": digest, "test": 0.9, "val": 0.9}


def test_what_is_finished_is_not_repeated(tmp_path: Path) -> None:
    results = tmp_path / "deep" / "growth.jsonl"
    wanted = keys([G3], [STATIC_SMALL, RANDOM], [0, 2], 0, "heuristic")
    assert [(arm, seed) for _, arm, seed, _ in wanted] == [
        (STATIC_SMALL, 0),
        (RANDOM, 0),
        (STATIC_SMALL, 2),
        (RANDOM, 2),
    ]
    for key in wanted:
        append_row(results, finished(key))
    before = results.read_bytes()
    run_missing(wanted, {"G3": G3}, results, "heuristic", 1)
    assert results.read_bytes() == before


def test_scratch_waits_for_its_esper_run(tmp_path: Path) -> None:
    results = tmp_path / "growth.jsonl"
    wanted = keys([G3], [SCRATCH], [0], 0, "heuristic")
    run_missing(wanted, {"G3": G3}, results, "heuristic", 1)
    assert not results.exists()


def test_a_run_that_fails_costs_no_other_its_row(tmp_path: Path) -> None:
    """In a process beside this one, as in a benchmark: seconds, most of them to import torch."""
    results = tmp_path / "growth.jsonl"
    task = replace(SHORT, big="+model.model_params={hidden: [-1]}")
    wanted = keys([task], [STATIC_BIG, STATIC_SMALL], [0], 0, "heuristic")
    with pytest.raises(RuntimeError, match=r"G3 static_big 0: ConfigError.*hidden"):
        run_missing(wanted, {"G3": task}, results, "heuristic", 1)
    assert [row["arm"] for row in read_rows(results)] == [STATIC_SMALL]


def test_the_recorded_runs_can_be_read() -> None:
    rows = read_rows(Path(growth_arms.__file__).parents[1] / "growth.jsonl.gz")
    assert len(rows) == 290
    assert {row["task"] for row in rows} == {"G1", "G2", "G3"}


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    results = tmp_path / "growth.jsonl"
    key = ("G3", ESPER, 0, arm_hash(G3, ESPER, "heuristic"))
    append_row(results, finished(key))
    with results.open("a") as file:
        file.write('{"task": "G3", "ar')
    rows = read_rows(results)
    assert [key_of(row) for row in rows] == [key]
    append_row(results, finished(key) | {"seed": 1})
    assert [row["seed"] for row in read_rows(results)] == [0, 1]


def test_the_last_of_repeated_runs_counts() -> None:
    key = ("G3", ESPER, 0, "x")
    rows = [finished(key), finished(key) | {"test": 0.5}]
    assert [row["test"] for row in chosen(rows, [key, ("G3", ESPER, 1, "x")])] == [0.5]


def test_a_sweep_is_numbered_by_its_topologies() -> None:
    task: Task = SHORT
    wanted = keys([task], [STATIC_SMALL, SWEEP], [0], 3, "heuristic")
    assert [(arm, seed) for _, arm, seed, _ in wanted] == [
        (STATIC_SMALL, 0),
        (SWEEP, 0),
        (SWEEP, 1),
        (SWEEP, 2),
    ]


def test_a_finished_run_is_one_line() -> None:
    row = finished(("G3", ESPER, 0, "x")) | {"params": 2_000, "cpu_s": 1.25}
    assert result_line(row) == "G3 esper 0: test 90.00 %, val 90.00 %, 2,000 parameters, 1.2 CPU s"

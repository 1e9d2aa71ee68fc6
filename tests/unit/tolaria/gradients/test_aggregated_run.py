"""Whole runs whose gradients are combined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.objectives import Heads, heads_loss
from helpers.runs import PlannedPolicy, checkpoints, germinate, make_run, notes_of, restored
from helpers.scenarios import LONG, StopsAt, alike, path_of

from esper.tolaria.gradients import Aggregator, Mean, PCGrad, Weighted
from esper.tolaria.loop import TrainingLoop
from esper.tolaria.run_control import RunControl


def two_headed(run_dir: Path, aggregator: Aggregator | None, **options: Any) -> TrainingLoop:
    torch.manual_seed(0)
    parts = {"aggregator": aggregator, "loss": heads_loss}
    given = {"model__target_layers": ["trunk.1"]} | options
    return make_run(run_dir, tamiyo=PlannedPolicy(), model=Heads(), parts=parts, **given)


def pcgrad() -> PCGrad:
    return PCGrad(torch.Generator().manual_seed(3))


def aggregated_run(
    run_dir: Path, *, notes: Any = None, run_control: RunControl | None = None
) -> TrainingLoop:
    """Steps of four micro-batches and a remainder of two, a seed that joins meanwhile, PCGrad."""
    options = LONG | {"optimization__accumulation_steps": 4, "logging__step_interval": 1}
    plan = PlannedPolicy({1: [germinate()]})
    return make_run(
        run_dir, tamiyo=plan, notes=notes, run_control=run_control, parts={"aggregator": pcgrad()}, **options
    )


def test_a_run_stopped_after_any_step_ends_as_if_never_stopped(tmp_path: Path) -> None:
    """The generator of the orders and the counts of half an epoch come back; a graft between."""
    whole = aggregated_run(tmp_path / "whole")
    whole.train()
    lines = notes_of(whole).comparable()
    assert sum(line["grad_agg"]["conflicts"] for line in lines) > 0
    assert [line["grad_agg"]["steps"] for line in lines] == [2] * 4
    for at in (2, 3, 4, 5):
        folder, run_control = tmp_path / str(at), RunControl()
        stopped = aggregated_run(folder, notes=StopsAt(run_control, at), run_control=run_control)
        stopped.config.checkpoint.checkpoint_frequency = 100
        stopped.train()
        last = list(checkpoints(stopped))[-1]
        resumed = restored(aggregated_run(folder), path_of(folder, last))
        resumed.train()
        assert alike(resumed, whole), at


def test_conflicts_are_reported_by_step_and_by_epoch(tmp_path: Path) -> None:
    """In the loggers' records and as an event."""
    run = aggregated_run(tmp_path)
    run.train()
    notes = notes_of(run)
    for line in notes.epochs:
        logged = line["grad_agg"]
        assert logged["microbatches_total"] == 6 * line["epoch"]
        assert 0 <= logged["conflict_ratio"] <= 1
        assert logged["pcgrad_applied"] <= logged["steps"]
        of_steps = [s for s in notes.steps if line["step"] - 2 < s["step"] <= line["step"]]
        assert sum(s["grad_agg"]["conflicts"] for s in of_steps) == logged["conflicts"]
    assert [event.data for event in notes.named("tolaria.grad_agg")] == [e["grad_agg"] for e in notes.epochs]


@pytest.mark.parametrize(
    ("aggregator", "weights"),
    [
        (None, (1.0, 1.0)),
        (pcgrad(), (1.0, 1.0)),
        (Mean(), (0.5, 0.5)),
        (Weighted({"digit": 3, "odd": 1}), (0.75, 0.25)),
    ],
)
def test_objectives_are_distinguished(
    tmp_path: Path, aggregator: Aggregator | None, weights: tuple[float, float]
) -> None:
    """The loss is the aggregated one; each objective is logged, too."""
    run = two_headed(tmp_path, aggregator, optimization__accumulation_steps=2, logging__step_interval=1)
    run.train()
    notes = notes_of(run)
    for line in notes.epochs:
        for split in ("train", "val"):
            found = line[f"{split}_losses"]
            total = weights[0] * found["digit"] + weights[1] * found["odd"]
            assert line[f"{split}_loss"] == pytest.approx(total, rel=1e-5)
            assert line[f"{split}_accuracy"] is None
        assert ("grad_agg" in line) == (aggregator is not None)
    assert set(notes.steps[0]["losses"]) == {"digit", "odd"}
    assert notes.epochs[-1]["val_losses"]["digit"] < notes.epochs[0]["val_losses"]["digit"]
    assert run.dry_run() > 0


def test_several_objectives_are_not_compiled_and_the_numbers_stay(tmp_path: Path) -> None:
    """With the reason logged once; a compiled graph can be differentiated only once."""
    eager = two_headed(tmp_path / "eager", pcgrad())
    asked = two_headed(tmp_path / "asked", pcgrad(), compile_model=True, trainer__compile_backend="aot_eager")
    eager.train()
    asked.train()
    assert notes_of(eager).comparable() == notes_of(asked).comparable()
    (event,) = notes_of(asked).named("compile_fallback")
    assert "several objectives" in event.data["reason"]


def test_micro_batches_are_compiled(tmp_path: Path) -> None:
    """Each has its own graph, which is differentiated once."""
    found = []
    for compiled in (True, False):
        options = {"compile_model": compiled, "trainer__compile_backend": "eager"}
        torch.manual_seed(0)
        run = make_run(
            tmp_path / str(compiled),
            parts={"aggregator": pcgrad()},
            optimization__accumulation_steps=2,
            optimization__max_epochs=1,
            **options,
        )
        run.train()
        assert notes_of(run).named("compile_fallback") == []
        found.append(notes_of(run).comparable())
    assert found[0][0]["train_loss"] == pytest.approx(found[1][0]["train_loss"], rel=1e-4)


def test_a_plain_run_says_nothing_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, optimization__max_epochs=1)
    run.train()
    assert not {"grad_agg", "train_losses", "val_losses"} & set(notes_of(run).epochs[0])
    assert notes_of(run).named("tolaria.grad_agg") == []
    assert "gradients" not in run.state.owners

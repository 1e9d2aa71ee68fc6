"""Measurements beside the training: a failure is one warning and a missing value, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Notes, PlannedPolicy, germinate, make_run, notes_of, same, weights
from torch import Tensor, nn

from esper.leyline import Level
from esper.models import build
from esper.runs.summary import summarize
from esper.tolaria.events import Telemetry
from esper.tolaria.interrupts import RunInterrupted
from esper.tolaria.measurements import Measurements
from esper.tolaria.recovery import DivergenceError


def fail() -> int:
    raise ZeroDivisionError("of all\nthings")


def test_the_first_failure_of_a_kind_is_reported_and_all_are_counted() -> None:
    notes = Notes()
    measurements = Measurements(Telemetry(notes))
    assert measurements.take("a", lambda: 3) == 3
    assert [measurements.take(what, fail) for what in ("a", "a", "b")] == [None] * 3
    assert measurements.failures == {"a": 2, "b": 1}
    first, second = notes.named("notice")
    assert first.level == Level.WARNING
    assert first.data["message"].startswith("a: failed") and second.data["message"].startswith("b: failed")
    assert "ZeroDivisionError: of all things" in first.data["message"]


@pytest.mark.parametrize(
    "error", [DivergenceError("x"), RunInterrupted("x"), KeyboardInterrupt(), SystemExit()]
)
def test_what_ends_a_run_passes_through(error: BaseException) -> None:
    def stop() -> None:
        raise error

    with pytest.raises(type(error)):
        Measurements(Telemetry(Notes()), passing=(DivergenceError,)).take("a", stop)


class Once(torch.autograd.Function):
    """The identity; its backward pass cannot be asked for by `torch.autograd.grad` on probes."""

    broken = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if Once.broken:
            raise RuntimeError("not on a probe")
        return grad


class Fragile(nn.Module):
    """A host whose backward pass fails where its forward was in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("convnet", num_classes=10, channels=1, image_size=(8, 8), widths=[4, 8])

    def forward(self, x: Tensor) -> Tensor:
        Once.broken = not self.training
        return Once.apply(self.inner(x))


OPTIONS = {"model__target_layers": ["inner.block1"], "morphogenetic__seed__blend_steps": 0}


def test_costs_and_health_that_cannot_be_taken_are_null_and_the_training_is_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    host = Fragile()
    whole = make_run(tmp_path, model=host.inner, **OPTIONS | {"model__target_layers": ["block1"]})
    whole.train()
    run = make_run(tmp_path, tamiyo=PlannedPolicy(), model=host, **OPTIONS)
    run.train()
    assert run.progress.epoch == 3 and run.progress.train_flops is None
    assert summarize(run, None, 0)["train_flops"] is None
    messages = [event.data["message"].split(":")[0] for event in notes_of(run).named("notice")]
    assert sorted(messages) == ["the health of the seeds", "train_flops"]
    assert run.growth is not None and run.growth.health == {}
    bare = {name.replace("host.inner.", "host."): t for name, t in weights(run.model).items()}
    assert same(bare, weights(whole.model))


def test_a_bound_on_flops_that_cannot_be_counted_leaves_no_room(tmp_path: Path) -> None:
    plan = PlannedPolicy({1: [germinate("inner.block1")]})
    options = {"morphogenetic__max_params_ratio": 9.0, **OPTIONS}
    run = make_run(tmp_path, tamiyo=plan, model=Fragile(), morphogenetic__max_flops_ratio=9.0, **options)
    run.train()
    (outcome,) = plan.outcomes
    assert not outcome.applied and "could not be counted" in outcome.detail
    free = PlannedPolicy({1: [germinate("inner.block1")]})
    other = make_run(tmp_path, tamiyo=free, model=Fragile(), **options)
    other.train()
    assert free.outcomes[0].applied and other.progress.train_flops is None


def test_an_impact_that_fails_leaves_a_seed_unjudged(tmp_path: Path) -> None:
    plan = PlannedPolicy({1: [germinate("block1")]})
    run = make_run(
        tmp_path,
        tamiyo=plan,
        morphogenetic__seed__blend_steps=0,
        morphogenetic__seed__probation_epochs=0,
        morphogenetic__max_params_ratio=9.0,
    )

    class Broken(type(run.evaluator)):  # type: ignore[misc]
        def impacts(self, *args: Any) -> Any:
            raise RuntimeError("no samples")

    run.evaluator.__class__ = Broken
    run.train()
    (record,) = run.model.alive_records()
    assert record.impact is None and run.progress.train_flops is None
    assert notes_of(run).named("seed_impact") == []
    assert [seed["impact_at_end"] for seed in summarize(run, None, 0)["seeds"]] == [None]
    logged = [event.data["message"] for event in notes_of(run).named("notice")]
    assert [text.split(":")[0] for text in logged] == [
        "the impact of the seeds",
        "the impact of the seeds at the end",
    ]

"""Requests are handled at every batch, in every phase, and the saved state is exact."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import (
    Notes,
    PlannedPolicy,
    checkpoints,
    germinate,
    make_run,
    notes_of,
    restored,
    same,
    weights,
)
from helpers.scenarios import LONG, StopsAt, alike, path_of
from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.loop import TrainingLoop
from esper.tolaria.run_control import RunControl

# training, validation, health of the sites and a seed, its impact: all in the second epoch
OPTIONS = LONG | {
    "optimization__max_epochs": 3,
    "checkpoint__checkpoint_frequency": 100,
    "morphogenetic__seed__probation_epochs": 0,
    "trainer__limit_train_batches": 5,
}


class CallsOut(nn.Module):
    """Cross entropy that calls somebody at its n-th call of any kind, and counts those after it."""

    def __init__(self, at: int, call: Callable[[], None]) -> None:
        super().__init__()
        self.at = at
        self.call = call
        self.calls = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> CallsOut:
        """Copies, with which a loss is tried while a run is built, call nothing."""
        return CallsOut(0, self.call)

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            self.call()
        return nn.functional.cross_entropy(output, targets)


def growing(
    run_dir: Path, run_control: RunControl | None = None, loss: nn.Module | None = None
) -> TrainingLoop:
    parts = {} if loss is None else {"loss": loss}
    return make_run(
        run_dir, tamiyo=PlannedPolicy({1: [germinate()]}), run_control=run_control, parts=parts, **OPTIONS
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingLoop, int]:
    """A run that is never stopped, and how often its loss is called in two epochs."""
    loss, seen = CallsOut(0, print), []

    class Counts(Notes):
        def epoch(self, record: Any) -> None:
            super().epoch(record)
            seen.append(loss.calls)

    run = make_run(
        tmp_path_factory.mktemp("whole"),
        tamiyo=PlannedPolicy({1: [germinate()]}),
        notes=Counts(),
        parts={"loss": loss},
        **OPTIONS,
    )
    run.train()
    assert notes_of(run).named("seed_impact")
    assert notes_of(run).named("seed_health")
    return run, seen[1]


def test_a_run_stopped_at_any_batch_of_any_phase_ends_as_if_never_stopped(
    tmp_path: Path, whole: tuple[TrainingLoop, int]
) -> None:
    """Training, validation, health and impact; at most one batch later, to the bit."""
    seen: set[str] = set()
    for at in range(12, whole[1] + 1, 2):
        folder, run_control = tmp_path / str(at), RunControl()
        loss = CallsOut(at, lambda run_control=run_control: run_control.stop("sigterm"))  # type: ignore[misc]
        stopped = growing(folder, run_control, loss)
        stopped.train()
        assert stopped.progress.stopped_by == "sigterm"
        # counted after the request: the present batch and a probe that belongs to its step
        assert loss.calls <= at + 2
        name = list(checkpoints(stopped))[-1]
        seen.add(name)
        resumed = restored(growing(folder, loss=CallsOut(0, print)), path_of(folder, name))
        assert resumed.progress.batch == stopped.progress.batch
        assert same(weights(resumed.model), weights(stopped.model))
        resumed.train()
        assert alike(resumed, whole[0]), at
    assert "epoch-0001-batch-000005" in seen  # from a phase
    assert len(seen) >= 2  # from a step


def test_a_phase_that_cannot_be_undone_is_finished_first(tmp_path: Path) -> None:
    """No snapshot fits; the stop waits for the end of the epoch, and a notice is logged."""
    run_control = RunControl()
    run = growing(tmp_path, run_control, CallsOut(8, lambda: run_control.stop("sigterm")))
    run.guard.snapshots.limit_bytes = 100
    run.train()
    assert (run.progress.epoch, run.progress.batch, run.progress.stopped_by) == (1, 0, "sigterm")
    assert list(checkpoints(run)) == ["epoch-0001"]
    assert any("a stop during validation waits" in e.data["message"] for e in notes_of(run).named("notice"))


def test_the_test_phase_can_be_stopped(tmp_path: Path) -> None:
    """The state has been saved before, the run is ended by the signal."""
    run_control = RunControl()
    run = growing(tmp_path, run_control)
    run.train()
    run_control.stop("sigint")
    assert run.test() is None
    assert run.progress.stopped_by == "sigint"
    assert list(checkpoints(run)) == ["epoch-0003"]


def test_a_pause_inside_validation_waits_there(tmp_path: Path) -> None:
    run_control, paused = RunControl(), threading.Event()

    def hold() -> None:
        run_control.pause()
        paused.set()

    loss = CallsOut(7, hold)  # the probe, five steps, then the first batch of validation
    run = growing(tmp_path, run_control, loss)
    thread = threading.Thread(target=run.train)
    thread.start()
    assert paused.wait(20)
    thread.join(0.3)
    calls = loss.calls
    assert thread.is_alive()
    assert calls == 7
    run_control.resume()
    thread.join(60)
    assert run.progress.stopped_by == "max_epochs"


# -- checkpoints on demand -----------------------------------------------------------------------


class Asks(Notes):
    """Asks for a checkpoint after so many steps."""

    def __init__(self, run_control: RunControl, at: int) -> None:
        super().__init__()
        self.run_control = run_control
        self.at = at
        self.answers: list[Future[str]] = []

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        super().progress(step_in_epoch, loss)
        if len(self.places) == self.at:
            self.answers += [self.run_control.checkpoint(), self.run_control.checkpoint()]


def test_a_checkpoint_on_demand_is_saved_between_two_steps(tmp_path: Path) -> None:
    run_control = RunControl()
    notes = Asks(run_control, 7)
    run = make_run(tmp_path, tamiyo=PlannedPolicy(), run_control=run_control, notes=notes, **OPTIONS)
    run.train()
    assert [answer.result(0) for answer in notes.answers] == ["epoch-0001-batch-000002"] * 2
    assert load_checkpoint(path_of(tmp_path, "epoch-0001-batch-000002")).state["run"]["progress"]["step"] == 7


def test_one_asked_for_in_validation_is_what_was_before_it(tmp_path: Path) -> None:
    run_control, answers = RunControl(), []
    run = growing(tmp_path, run_control, CallsOut(8, lambda: answers.append(run_control.checkpoint())))
    run.train()
    assert answers[0].result(0) == "epoch-0000-batch-000005"


def test_one_asked_for_while_paused_is_saved_at_once(tmp_path: Path) -> None:
    run_control = RunControl()

    class Pauses(StopsAt):
        def progress(self, step_in_epoch: int, loss: float | None) -> None:
            Notes.progress(self, step_in_epoch, loss)
            if len(self.places) == self.at:
                self.run_control.pause()

    run = make_run(
        tmp_path, tamiyo=PlannedPolicy(), run_control=run_control, notes=Pauses(run_control, 3), **OPTIONS
    )
    thread = threading.Thread(target=run.train)
    thread.start()
    while not run_control.paused:
        thread.join(0.01)
    assert run_control.checkpoint().result(20) == "epoch-0000-batch-000003"
    run_control.stop()
    thread.join(60)
    assert run.progress.step == 3


def test_without_saving_a_checkpoint_request_is_rejected(tmp_path: Path) -> None:
    run_control = RunControl()
    notes = Asks(run_control, 2)
    options = OPTIONS | {"checkpoint__save_checkpoints": False}
    make_run(tmp_path, tamiyo=PlannedPolicy(), run_control=run_control, notes=notes, **options).train()
    with pytest.raises(CheckpointError, match="save_checkpoints is false"):
        notes.answers[0].result(0)
    with pytest.raises(CheckpointError, match="the run has ended"):
        run_control.checkpoint().result(0)

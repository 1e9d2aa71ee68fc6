"""Runs that are stopped anywhere and taken up again end as if never stopped, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import PlannedPolicy, checkpoints, make_run, notes_of, restored
from helpers.scenarios import LONG, SCENARIOS, StopsAt, alike, make_scenario, path_of
from torch import Tensor, nn

from esper.tamiyo import HeuristicPolicy
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.loop import TrainingLoop
from esper.tolaria.run_control import RunControl


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_run_taken_up_from_any_epoch_ends_as_if_never_stopped(tmp_path: Path, name: str) -> None:
    """The same epochs, weights, best model and memory, bit for bit."""
    whole = make_scenario(tmp_path / "whole", name)
    whole.train()
    saved = list(checkpoints(whole))
    assert len(saved) == 4
    for epoch in (1, 2, 3):
        resumed = restored(
            make_scenario(tmp_path / str(epoch), name), path_of(tmp_path / "whole", saved[epoch - 1])
        )
        assert resumed.progress.epoch == epoch
        resumed.train()
        assert alike(resumed, whole), epoch


@pytest.mark.parametrize("name", ["blend", "isolation", "accumulation", "inside"])
def test_a_run_stopped_after_any_step_ends_as_if_never_stopped(tmp_path: Path, name: str) -> None:
    """Within one batch; no epoch is repeated or skipped."""
    whole = make_scenario(tmp_path / "whole", name)
    whole.train()
    per_epoch = whole.steps_per_epoch
    for at in range(per_epoch, 2 * per_epoch + 1):  # the epoch the seed arrives in, both its borders included
        folder, run_control = tmp_path / str(at), RunControl()
        stopped = make_scenario(folder, name, notes=StopsAt(run_control, at), run_control=run_control)
        stopped.config.checkpoint.checkpoint_frequency = 100  # so that the stop's own one is the only one
        stopped.train()
        assert (stopped.progress.stopped_by, stopped.progress.step) == ("sigterm", at)
        last = list(checkpoints(stopped))[-1]
        resumed = restored(make_scenario(folder, name), path_of(folder, last))
        resumed.train()
        assert resumed.progress.stopped_by == "max_epochs"
        assert alike(resumed, whole), at


class Weighted(nn.Module):
    """Two objectives, divided by the sum of the classes' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("of_class", torch.linspace(1.0, 5.0, 10))

    def forward(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = nn.functional.cross_entropy(output, targets, weight=self.of_class)
        return {"all": loss, "half": loss / 2}

    def divisor(self, targets: Tensor) -> Tensor:
        return self.of_class[targets]


class Ignores(nn.CrossEntropyLoss):
    """Labels of 3 count neither in the loss nor in the accuracy."""

    def __init__(self) -> None:
        super().__init__(ignore_index=3)


@pytest.mark.parametrize("loss", [Weighted, Ignores])
def test_sums_with_divisors_of_their_own_are_resumed_within_an_epoch(
    tmp_path: Path, loss: Callable[[], nn.Module]
) -> None:
    def run_in(folder: Path, **given: Any) -> TrainingLoop:
        return make_run(folder, parts={"loss": loss()}, **given, **LONG)

    whole = run_in(tmp_path / "whole")
    whole.train()
    run_control = RunControl()
    stopped = run_in(tmp_path / "part", notes=StopsAt(run_control, 9), run_control=run_control)
    stopped.train()
    saved = path_of(tmp_path / "part", list(checkpoints(stopped))[-1])
    assert "weighted" in load_checkpoint(saved).state["owners"]["meter"]
    resumed = restored(run_in(tmp_path / "part"), saved)
    resumed.train()
    assert alike(resumed, whole)
    assert notes_of(resumed).comparable() == notes_of(whole).comparable()[1:]


def test_a_run_stopped_over_and_over_ends_as_if_never_stopped(tmp_path: Path) -> None:
    whole = make_scenario(tmp_path / "whole", "blend")
    whole.train()
    run, folder = None, tmp_path / "stopped"
    while run is None or run.progress.stopped_by == "sigterm":
        run_control = RunControl()
        before = None if run is None else path_of(folder, list(checkpoints(run))[-1])
        run = make_scenario(folder, "blend", notes=StopsAt(run_control, 4), run_control=run_control)
        if before is not None:
            restored(run, before)
        run.train()
    assert alike(run, whole)


def test_a_run_stopped_after_its_very_last_step_is_still_closed_and_saved(tmp_path: Path) -> None:
    """The last epoch is always saved."""
    run_control = RunControl()
    stopped = make_scenario(tmp_path, "no growth", notes=StopsAt(run_control, 24), run_control=run_control)
    stopped.train()
    assert stopped.progress.epoch == 3
    assert list(checkpoints(stopped))[-1] == "epoch-0003-batch-000006"
    resumed = restored(make_scenario(tmp_path, "no growth"), path_of(tmp_path, "epoch-0003-batch-000006"))
    resumed.train()
    assert list(checkpoints(resumed)) == ["epoch-0004"]
    assert len(notes_of(resumed).epochs) == 1


def test_a_heuristic_run_is_taken_up_with_its_memory(tmp_path: Path) -> None:
    options = LONG | {"optimization__max_epochs": 8}
    whole = make_run(tmp_path / "whole", tamiyo=HeuristicPolicy(), **options)
    whole.train()
    assert whole.growth is not None
    assert whole.growth.controller.counts["applied"] > 0
    for epoch in (1, 3, 5):
        run = make_run(tmp_path / str(epoch), tamiyo=HeuristicPolicy(), **options)
        restored(run, path_of(tmp_path / "whole", f"epoch-{epoch:04d}")).train()
        assert alike(run, whole), epoch


def test_a_finished_run_taken_up_does_nothing_more(tmp_path: Path) -> None:
    whole = make_scenario(tmp_path, "blend")
    whole.train()
    again = restored(make_scenario(tmp_path / "again", "blend"), path_of(tmp_path, "epoch-0004"))
    again.train()
    assert (again.progress.step, again.progress.stopped_by) == (whole.progress.step, "max_epochs")
    assert notes_of(again).epochs == []
    # the folder then holds what its run ended with
    assert [path.name for path in (tmp_path / "again" / "checkpoints").iterdir()] == ["epoch-0004"]


def test_a_finished_run_can_be_given_more_epochs(tmp_path: Path) -> None:
    """Explicit extension."""
    make_scenario(tmp_path, "no growth").train()
    run = make_run(tmp_path / "more", tamiyo=PlannedPolicy(), **LONG | {"optimization__max_epochs": 7})
    restored(run, path_of(tmp_path, "epoch-0004")).train()
    assert (run.progress.epoch, run.progress.stopped_by) == (7, "max_epochs")
    (logged,) = [e for e in notes_of(run).named("notice") if "planned for" in e.data["message"]]
    assert "24 steps, 6 an epoch; from here on it is for 42 steps" in logged.data["message"]


def test_steps_recorded_before_a_stop_are_not_lost(tmp_path: Path) -> None:
    run_control = RunControl()
    run = make_run(
        tmp_path, notes=StopsAt(run_control, 8), run_control=run_control, logging__step_interval=1, **LONG
    )
    run.train()
    assert [line["step"] for line in notes_of(run).steps] == list(range(1, 9))

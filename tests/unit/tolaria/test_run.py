"""T1, T3, T10, T11, S2: whole runs in little, stopped anywhere and taken up again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import (
    Notes,
    Plan,
    checkpoints,
    germinate,
    make_run,
    notes_of,
    restored,
    same,
    tell,
    weights,
)
from torch import Tensor, nn

from esper.leyline import CommandKind, SeedStage
from esper.tamiyo import HeuristicPolicy
from esper.tolaria.run import Run
from esper.tolaria.signals import Wishes
from esper.tolaria.state import load_checkpoint

LONG = {
    "optimization__max_epochs": 4,
    "checkpoint__save_checkpoints": True,
    "checkpoint__checkpoint_frequency": 1,
    "checkpoint__max_checkpoints": 99,
    "morphogenetic__max_params_ratio": 99.0,
    "optimization__scheduler_params": {"warmup_steps": 4},
}
LIVES: dict[str, tuple[dict[int, Any], dict[str, Any]]] = {
    "no growth": ({}, {}),
    # a blend of nine steps is under way at the end of epoch 2, and of every epoch's middle
    "blend": ({1: [germinate()]}, {"morphogenetic__seed__blend_steps": 9}),
    "isolation": ({1: [germinate()]}, {"morphogenetic__seed__isolation_steps": 9}),
    "gated": ({1: [germinate()]}, {"morphogenetic__seed__blend_mode": "gated"}),
    "reversed": (
        {1: [germinate()], 2: [tell(CommandKind.CULL, number=2)], 3: [germinate("block2", number=3)]},
        {"morphogenetic__seed__blend_steps": 15, "morphogenetic__seed__embargo_epochs": 1},
    ),
    "accumulation": (
        {1: [germinate()]},
        {"optimization__accumulation_steps": 4, "optimization__gradient_clip_norm": 0.5},
    ),
    "fp16": ({1: [germinate()]}, {"mixed_precision": "fp16"}),
    "dropout": (
        {1: [germinate("body.fc1", "mlp")]},
        {
            "model__architecture": "mlp",
            "model__model_params": {"hidden": [16], "dropout": 0.3},
            "model__target_layers": ["body.fc1"],
        },
    ),
    "sgd": ({2: [germinate("block2")]}, {"optimization__optimizer": "sgd"}),
    "inside": (
        {0: [germinate()]},
        {"morphogenetic__decision_interval_steps": 4, "morphogenetic__health_signal_interval": 2},
    ),
}


def life(run_dir: Path, name: str, *, notes: Notes | None = None, wishes: Wishes | None = None) -> Run:
    commands, options = LIVES[name]
    return make_run(run_dir, tamiyo=Plan(commands), notes=notes, wishes=wishes, **LONG | options)


def path_of(run_dir: Path, name: str) -> Path:
    return run_dir / "checkpoints" / name


def alike(resumed: Run, whole: Run) -> bool:
    """Whether a run that was taken up ended exactly as the one that was never stopped."""
    epochs = notes_of(resumed).comparable()
    return (
        epochs == notes_of(whole).comparable()[-len(epochs) :]
        and same(weights(resumed.model), weights(whole.model))
        and comparable(resumed) == comparable(whole)
        and same(resumed.best.weights, whole.best.weights)
        and resumed.precision.state_dict() == whole.precision.state_dict()
    )


def comparable(run: Run) -> dict[str, Any]:
    """Everything else that a run remembers, but for the time it took."""
    _, state = run.state.capture()
    for name in ("wall_s", "cpu_s"):
        del state["run"]["progress"][name]
    for name in ("growth", "health"):  # latencies
        state.pop(name, None)
    return state


@pytest.mark.parametrize("name", LIVES)
def test_a_run_taken_up_from_any_epoch_ends_as_if_never_stopped(tmp_path: Path, name: str) -> None:
    """S2: the same epochs, weights, best model and memory, bit for bit."""
    whole = life(tmp_path / "whole", name)
    whole.train()
    saved = list(checkpoints(whole))
    assert len(saved) == 4
    for epoch in (1, 2, 3):
        resumed = restored(life(tmp_path / str(epoch), name), path_of(tmp_path / "whole", saved[epoch - 1]))
        assert resumed.progress.epoch == epoch
        resumed.train()
        assert alike(resumed, whole), epoch


class StopsAt(Notes):
    """A watcher that asks the run to stop after so many steps."""

    def __init__(self, wishes: Wishes, steps: int) -> None:
        super().__init__()
        self.wishes = wishes
        self.at = steps

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        super().progress(step_in_epoch, loss)
        if len(self.places) == self.at:
            self.wishes.stop("sigterm")


@pytest.mark.parametrize("name", ["blend", "isolation", "accumulation", "inside"])
def test_a_run_stopped_after_any_step_ends_as_if_never_stopped(tmp_path: Path, name: str) -> None:
    """T11, pains 3, 5: within one batch; no epoch is repeated or skipped."""
    whole = life(tmp_path / "whole", name)
    whole.train()
    per_epoch = whole.steps_per_epoch
    for at in range(per_epoch, 2 * per_epoch + 1):  # the epoch the seed arrives in, both its borders included
        folder, wishes = tmp_path / str(at), Wishes()
        stopped = life(folder, name, notes=StopsAt(wishes, at), wishes=wishes)
        stopped.config.checkpoint.checkpoint_frequency = 100  # so that the stop's own one is the only one
        stopped.train()
        assert (stopped.progress.stopped_by, stopped.progress.step) == ("sigterm", at)
        last = list(checkpoints(stopped))[-1]
        resumed = restored(life(folder, name), path_of(folder, last))
        resumed.train()
        assert resumed.progress.stopped_by == "max_epochs"
        assert alike(resumed, whole), at


def test_a_run_stopped_over_and_over_ends_as_if_never_stopped(tmp_path: Path) -> None:
    whole = life(tmp_path / "whole", "blend")
    whole.train()
    run, folder = None, tmp_path / "stopped"
    while run is None or run.progress.stopped_by == "sigterm":
        wishes = Wishes()
        before = None if run is None else path_of(folder, list(checkpoints(run))[-1])
        run = life(folder, "blend", notes=StopsAt(wishes, 4), wishes=wishes)
        if before is not None:
            restored(run, before)
        run.train()
    assert alike(run, whole)


def test_a_run_stopped_after_its_very_last_step_is_still_closed_and_saved(tmp_path: Path) -> None:
    """T10: the last epoch is always saved."""
    wishes = Wishes()
    stopped = life(tmp_path, "no growth", notes=StopsAt(wishes, 24), wishes=wishes)
    stopped.train()
    assert stopped.progress.epoch == 3
    assert list(checkpoints(stopped))[-1] == "epoch-0003-batch-000006"
    resumed = restored(life(tmp_path, "no growth"), path_of(tmp_path, "epoch-0003-batch-000006"))
    resumed.train()
    assert list(checkpoints(resumed)) == ["epoch-0004"]
    assert len(notes_of(resumed).epochs) == 1


def test_a_heuristic_run_is_taken_up_with_its_memory(tmp_path: Path) -> None:
    options = LONG | {"optimization__max_epochs": 8}
    whole = make_run(tmp_path / "whole", tamiyo=HeuristicPolicy(), **options)
    whole.train()
    assert whole.growth is not None
    assert whole.growth.control.counts["applied"] > 0
    for epoch in (1, 3, 5):
        run = make_run(tmp_path / str(epoch), tamiyo=HeuristicPolicy(), **options)
        restored(run, path_of(tmp_path / "whole", f"epoch-{epoch:04d}")).train()
        assert alike(run, whole), epoch


def test_a_finished_run_taken_up_does_nothing_more(tmp_path: Path) -> None:
    whole = life(tmp_path, "blend")
    whole.train()
    again = restored(life(tmp_path / "again", "blend"), path_of(tmp_path, "epoch-0004"))
    again.train()
    assert (again.progress.step, again.progress.stopped_by) == (whole.progress.step, "max_epochs")
    assert notes_of(again).epochs == []
    assert not (tmp_path / "again" / "checkpoints").exists()


def test_a_finished_run_can_be_given_more_epochs(tmp_path: Path) -> None:
    """Pains 16: explicit extension."""
    life(tmp_path, "no growth").train()
    run = make_run(tmp_path / "more", tamiyo=Plan(), **LONG | {"optimization__max_epochs": 7})
    restored(run, path_of(tmp_path, "epoch-0004")).train()
    assert (run.progress.epoch, run.progress.stopped_by) == (7, "max_epochs")


def test_steps_recorded_before_a_stop_are_not_lost(tmp_path: Path) -> None:
    wishes = Wishes()
    run = make_run(tmp_path, notes=StopsAt(wishes, 8), wishes=wishes, logging__step_interval=1, **LONG)
    run.train()
    assert [line["step"] for line in notes_of(run).steps] == list(range(1, 9))


# -- one epoch -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 6), (2, 3), (4, 2), (5, 2), (7, 1)])
def test_leftover_batches_are_stepped(tmp_path: Path, accumulation: int, steps: int) -> None:
    """T3."""
    run = make_run(tmp_path, optimization__accumulation_steps=accumulation)
    assert run.steps_per_epoch == steps
    run.train()
    assert run.progress.step == 3 * steps
    assert run.progress.samples_seen == 3 * 6 * 32


def test_train_and_validation_numbers_are_means_over_their_own_samples(tmp_path: Path) -> None:
    """D3, D6: with a rate of next to nothing both can be computed by hand."""
    run = make_run(
        tmp_path,
        optimization__optimizer="sgd",
        optimization__learning_rate=1e-12,
        optimization__max_epochs=1,
        trainer__limit_train_batches=None,
        trainer__limit_val_batches=None,
        model__architecture="mlp",
        model__model_params={"hidden": [16]},
        model__target_layers=["body.fc1"],
    )
    model = run.model.host.eval()
    run.train()
    (line,) = notes_of(run).epochs
    for part, batches in (("train", run.parts.train.batches(1)), ("val", run.parts.validation.batches(0))):
        pairs = list(batches)
        assert len({len(y) for _, y in pairs}) == 2  # the last one is shorter
        x, y = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
        with torch.no_grad():
            output = model(x)
        assert line[f"{part}_loss"] == pytest.approx(nn.functional.cross_entropy(output, y).item(), rel=1e-5)
        assert line[f"{part}_accuracy"] == pytest.approx((output.argmax(1) == y).float().mean().item())


def test_the_rate_follows_the_schedule_over_all_steps(tmp_path: Path) -> None:
    run = make_run(tmp_path, optimization__scheduler="cosine")
    run.train()
    rates = [line["learning_rate"] for line in notes_of(run).epochs]
    expected = [0.01 * 0.5 * (1 + math.cos(math.pi * step / 18)) for step in (5, 11, 17)]
    assert rates == pytest.approx(expected)


def test_overfitting_one_batch_learns_it_and_is_judged_on_it(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        overfit_one_batch=True,
        optimization__max_epochs=15,
        model__model_params={"widths": [16, 32]},
    )
    run.train()
    last = notes_of(run).epochs[-1]
    assert last["train_accuracy"] == 1.0
    assert last["val_accuracy"] == 1.0


def test_a_dry_run_steps_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    assert run.dry_run() > 0
    assert run.progress.step == 0
    assert all(torch.equal(p, before[name]) for name, p in run.model.named_parameters())
    assert any(p.grad is not None for p in run.model.parameters())


def test_a_dry_run_whose_compile_fails_says_so_and_goes_on(tmp_path: Path) -> None:
    def nothing(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler")

    run = make_run(tmp_path, compile_model=True, trainer__compile_backend=nothing)
    assert run.dry_run() > 0
    assert len(notes_of(run).named("compile_fallback")) == 1


def test_growth_off_changes_no_number(tmp_path: Path) -> None:
    """K4: a policy that never plants, against no policy."""
    runs = [make_run(tmp_path, tamiyo=tamiyo) for tamiyo in (None, Plan())]
    for run in runs:
        run.train()
    off, idle = (notes_of(run).comparable() for run in runs)
    assert [line | {"morphogenetic_active": True} for line in off] == idle
    assert same(weights(runs[0].model), weights(runs[1].model))


# -- early stopping and the best -----------------------------------------------------------------


def quiet(run_dir: Path, commands: Mapping[int, Any], **options: Any) -> Run:
    """A run whose validation loss does not move by what counts as a fall."""
    given = {"optimization__early_stopping_min_delta": 100.0, "optimization__early_stopping_patience": 3}
    run = make_run(
        run_dir, tamiyo=Plan(commands), **LONG | {"optimization__max_epochs": 20} | given | options
    )
    run.train()
    return run


def test_it_stops_early(tmp_path: Path) -> None:
    run = quiet(tmp_path, {})
    assert (run.progress.epoch, run.progress.stopped_by) == (4, "early_stopping")
    assert notes_of(run).named("early_stopped")[0].data == {"waited_epochs": 3}
    assert list(checkpoints(run))[-1] == "epoch-0004"


def test_patience_is_counted_anew_from_each_structural_event(tmp_path: Path) -> None:
    """T10: epochs 2 and 4 change the network; 4, 5 and 6 are then waited for."""
    commands = {2: [germinate("block1", number=1)], 4: [germinate("block2", number=2)]}
    assert quiet(tmp_path, commands).progress.epoch == 6


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_resumed_run_has_waited_as_long(tmp_path: Path, epoch: int) -> None:
    quiet(tmp_path, {})
    run = make_run(
        tmp_path / "resumed",
        tamiyo=Plan(),
        **LONG
        | {
            "optimization__max_epochs": 20,
            "optimization__early_stopping_min_delta": 100.0,
            "optimization__early_stopping_patience": 3,
        },
    )
    restored(run, path_of(tmp_path, f"epoch-{epoch:04d}")).train()
    assert (run.progress.epoch, run.progress.stopped_by) == (4, "early_stopping")


def test_a_run_that_stopped_early_goes_on_only_with_more_patience(tmp_path: Path) -> None:
    quiet(tmp_path, {})
    options = LONG | {"optimization__max_epochs": 20, "optimization__early_stopping_min_delta": 100.0}
    for patience, epochs in ((3, 4), (5, 6)):
        run = make_run(
            tmp_path / str(patience),
            tamiyo=Plan(),
            **options | {"optimization__early_stopping_patience": patience},
        )
        restored(run, path_of(tmp_path, "epoch-0004")).train()
        assert (run.progress.epoch, run.progress.stopped_by) == (epochs, "early_stopping")


class Spoilt(nn.Module):
    """A loss that is NaN in evaluation, from its n-th batch on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(output, targets)
        if output.requires_grad:
            return loss
        self.left -= 1
        return loss if self.left >= 0 else loss * math.nan


@pytest.mark.parametrize(("good", "best"), [(0, -1), (2, 1), (4, 2)])
def test_a_validation_loss_that_is_nan_is_never_best(tmp_path: Path, good: int, best: int) -> None:
    """Pains 13. Two batches of validation an epoch."""
    run = make_run(tmp_path, parts={"loss": Spoilt(good)})
    run.train()
    assert run.best.mark.epoch in ([best] if best < 2 else [1, 2])
    assert math.isnan(notes_of(run).epochs[-1]["val_loss"])


def test_the_test_set_is_read_once_with_the_best_model_and_its_seeds(tmp_path: Path) -> None:
    run = make_run(tmp_path, tamiyo=Plan({2: [germinate()]}), **LONG)
    outputs: dict[int, Tensor] = {}
    x, _ = next(iter(run.parts.test.batches(0)))

    class Keeps(Notes):
        def epoch(self, record: Mapping[str, Any]) -> None:
            with torch.no_grad():
                outputs[record["epoch"]] = run.model.eval().forward(x)
            super().epoch(record)

    commands = {2: [germinate()]}
    run = make_run(tmp_path / "b", tamiyo=Plan(commands), notes=Keeps(), **LONG)
    run.train()
    found = run.test()
    assert found.samples == run.parts.test.num_samples
    best = run.best.mark.epoch
    with torch.no_grad():
        assert torch.equal(run.model.eval().forward(x), outputs[best])
    grown = run.model.record("block1", 0).stage is not SeedStage.DORMANT
    assert grown == (best > 2)


def test_a_checkpoint_alone_is_enough_to_test(tmp_path: Path) -> None:
    run = life(tmp_path, "blend")
    run.train()
    found = run.test()
    other = make_run(tmp_path / "b", **LONG)
    other.load_model(load_checkpoint(path_of(tmp_path, "epoch-0004")))
    again = other.test()
    assert (again.loss, again.accuracy) == (found.loss, found.accuracy)
    assert other.best.mark.to_json() == run.best.mark.to_json()

"""One epoch, early stopping, the best model and the test at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
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
from helpers.scenarios import LONG, make_scenario, path_of
from torch import Tensor, nn

from esper.leyline import SeedStage
from esper.tolaria.checkpoint import load_checkpoint
from esper.tolaria.loop import TrainingLoop

# -- one epoch -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 6), (2, 3), (4, 2), (5, 2), (7, 1)])
def test_leftover_batches_are_stepped(tmp_path: Path, accumulation: int, steps: int) -> None:
    run = make_run(tmp_path, optimization__accumulation_steps=accumulation)
    assert run.steps_per_epoch == steps
    run.train()
    assert run.progress.step == 3 * steps
    assert run.progress.samples_seen == 3 * 6 * 32


def test_train_and_validation_numbers_are_means_over_their_own_samples(tmp_path: Path) -> None:
    """With a rate of next to nothing both can be computed by hand."""
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
    for part, batches in (
        ("train", run.components.train.batches(1)),
        ("val", run.components.validation.batches(0)),
    ):
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
    """A policy that never plants, against no policy."""
    runs = [make_run(tmp_path, tamiyo=tamiyo) for tamiyo in (None, PlannedPolicy())]
    for run in runs:
        run.train()
    off, idle = (notes_of(run).comparable() for run in runs)
    assert [line | {"morphogenetic_active": True} for line in off] == idle
    assert same(weights(runs[0].model), weights(runs[1].model))


# -- early stopping and the best -----------------------------------------------------------------


def quiet(run_dir: Path, commands: Mapping[int, Any], **options: Any) -> TrainingLoop:
    """A run whose validation loss does not move by what counts as a fall."""
    given = {"optimization__early_stopping_min_delta": 100.0, "optimization__early_stopping_patience": 3}
    run = make_run(
        run_dir, tamiyo=PlannedPolicy(commands), **LONG | {"optimization__max_epochs": 20} | given | options
    )
    run.train()
    return run


def test_it_stops_early(tmp_path: Path) -> None:
    run = quiet(tmp_path, {})
    assert (run.progress.epoch, run.progress.stopped_by) == (4, "early_stopping")
    assert notes_of(run).named("early_stopped")[0].data == {"waited_epochs": 3}
    assert list(checkpoints(run))[-1] == "epoch-0004"


def test_patience_is_counted_again_from_each_structural_event(tmp_path: Path) -> None:
    """Epochs 2 and 4 change the network; 4, 5 and 6 are then waited for."""
    commands = {2: [germinate("block1", number=1)], 4: [germinate("block2", number=2)]}
    assert quiet(tmp_path, commands).progress.epoch == 6


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_resumed_run_has_waited_as_long(tmp_path: Path, epoch: int) -> None:
    quiet(tmp_path, {})
    run = make_run(
        tmp_path / "resumed",
        tamiyo=PlannedPolicy(),
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
            tamiyo=PlannedPolicy(),
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
    """Two batches of validation an epoch."""
    run = make_run(tmp_path, parts={"loss": Spoilt(good)})
    run.train()
    assert run.best.score.epoch in ([best] if best < 2 else [1, 2])
    assert math.isnan(notes_of(run).epochs[-1]["val_loss"])


def test_the_test_set_is_read_once_with_the_best_model_and_its_seeds(tmp_path: Path) -> None:
    run = make_run(tmp_path, tamiyo=PlannedPolicy({2: [germinate()]}), **LONG)
    outputs: dict[int, Tensor] = {}
    x, _ = next(iter(run.components.test.batches(0)))

    class Keeps(Notes):
        def epoch(self, record: Mapping[str, Any]) -> None:
            with torch.no_grad():
                outputs[record["epoch"]] = run.model.eval().forward(x)
            super().epoch(record)

    commands = {2: [germinate()]}
    run = make_run(tmp_path / "b", tamiyo=PlannedPolicy(commands), notes=Keeps(), **LONG)
    run.train()
    found = run.test()
    assert found.samples == run.components.test.num_samples
    best = run.best.score.epoch
    with torch.no_grad():
        assert torch.equal(run.model.eval().forward(x), outputs[best])
    grown = run.model.record("block1", 0).stage is not SeedStage.DORMANT
    assert grown == (best > 2)


def test_a_checkpoint_alone_is_enough_to_test(tmp_path: Path) -> None:
    run = make_scenario(tmp_path, "blend")
    run.train()
    found = run.test()
    other = make_run(tmp_path / "b", **LONG)
    other.load_model(load_checkpoint(path_of(tmp_path, "epoch-0004")))
    again = other.test()
    assert (again.loss, again.accuracy) == (found.loss, found.accuracy)
    assert other.best.score.to_json() == run.best.score.to_json()

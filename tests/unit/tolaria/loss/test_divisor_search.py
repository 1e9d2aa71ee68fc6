"""Which divisor is found for a loss, before training and at small batch sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs import make_run
from torch import Tensor, nn
from torch.nn import functional as F

from esper.tolaria.loop import TrainingLoop
from esper.tolaria.loss.objectives import LossFunction


class HiddenWeights(nn.Module):
    """sum(w * cross entropy) / sum(w), with the weights under a name that says nothing of them."""

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        w = torch.linspace(1.0, 5.0, output.shape[1])[targets]
        return (w * F.cross_entropy(output, targets, reduction="none")).sum() / w.sum()


def run_of(run_dir: Path, loss: LossFunction, batch_size: int, *, zero: bool) -> TrainingLoop:
    host = nn.Sequential()
    host.add_module("flatten", nn.Flatten())
    host.add_module("head", nn.Linear(64, 10))
    if zero:
        nn.init.zeros_(host[1].weight)
        nn.init.zeros_(host[1].bias)
    options = {"model__target_layers": ["head"], "dataset__batch_size": batch_size}
    return make_run(run_dir, model=host, parts={"loss": loss}, **options)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("zero", [False, True])
def test_a_mean_that_no_rule_explains_is_noted(tmp_path: Path, batch_size: int, zero: bool) -> None:
    """With a head of zeros all outputs are equal, and every rule fits; none fits outputs with noise."""
    run = run_of(tmp_path, HiddenWeights(), batch_size, zero=zero)
    assert run.loss.batch_dependent
    assert any("is not the mean of its samples" in note for note in run.loss.notes)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_mean_over_samples_is_known(tmp_path: Path, batch_size: int) -> None:
    def plain(output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output, targets)

    run = run_of(tmp_path, plain, batch_size, zero=True)
    assert not run.loss.batch_dependent
    assert run.loss.notes == ()

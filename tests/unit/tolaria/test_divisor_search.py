"""Which divisor is found for a loss, before training and at small batch sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.runs import make_run
from torch import Tensor, nn
from torch.nn import functional as F


class HiddenWeights(nn.Module):
    """sum(w * cross entropy) / sum(w), with the weights under a name that says nothing of them."""

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        w = torch.linspace(1.0, 5.0, output.shape[1])[targets]
        return (w * F.cross_entropy(output, targets, reduction="none")).sum() / w.sum()


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("zero", [False, True])
def test_a_mean_that_no_rule_explains_is_noted(tmp_path: Path, batch_size: int, zero: bool) -> None:
    """A head of zeros answers all samples alike: every rule fits its outputs, and none that have noise."""
    run = make_run(tmp_path, loss=HiddenWeights(), batch_size=batch_size, model=host(zero))
    assert run.loss.batch_dependent
    assert any("is not the mean of its samples" in note for note in run.loss.notes)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_mean_over_samples_is_known(tmp_path: Path, batch_size: int) -> None:
    def plain(output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output, targets)

    run = make_run(tmp_path, loss=plain, batch_size=batch_size, model=host(zero=True))
    assert not run.loss.batch_dependent
    assert run.loss.notes == ()

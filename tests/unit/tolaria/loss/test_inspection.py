"""What is determined about a loss before training, and what is rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import make_run, notes_of
from torch import Tensor, nn
from torch.nn import functional as F

from esper.errors import ConfigError


class Host(nn.Module):
    """An output of any shape from the tests' small images."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.block1 = nn.Linear(64, 8)
        self.head = nn.Linear(8, max(1, torch.Size(shape).numel()))
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block1(x.flatten(1)).relu()).reshape(len(x), *self.shape)


def floats(batch: Any) -> Any:
    inputs, targets = batch
    return (inputs,), {}, targets.float()


def run_with(tmp_path: Path, loss: Any, *shape: int, batch_adapter: Any = floats, **options: Any) -> Any:
    parts = {"loss": loss, "batch_adapter": batch_adapter}
    return make_run(tmp_path, model=Host(*shape), parts=parts, model__target_layers=["block1"], **options)


def squared_by_hand(output: Tensor, targets: Tensor) -> Tensor:
    return (output - targets).square().mean()


def squared_and_aligned(output: Tensor, targets: Tensor) -> Tensor:
    return (output.squeeze(-1) - targets).square().mean()


def squared_and_widened(output: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(output, targets.unsqueeze(1))


def ranked(output: Tensor, targets: Tensor) -> Tensor:
    return F.softplus((output.T - output) * (targets[None] - targets[:, None]).sign()).mean()


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.PoissonNLLLoss(), nn.KLDivLoss(), squared_by_hand],
    ids=["mse", "l1", "huber", "poisson", "divergence", "by hand"],
)
@pytest.mark.filterwarnings("ignore:Using a target size", "ignore:reduction")
def test_shapes_that_broadcast_are_refused_with_both_of_them(tmp_path: Path, loss: Any) -> None:
    words = r"\(16, 1\) and \(16,\), which would be broadcast to \(16, 16\)\): end the model with squeeze"
    with pytest.raises(ConfigError, match=words) as caught:
        run_with(tmp_path, loss, 1)
    assert len(caught.value.problems) == 1


def test_shapes_that_torch_refuses_are_refused_in_the_same_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one shape .they have \(16, 1\) and \(16,\)"):
        run_with(tmp_path, nn.BCEWithLogitsLoss(), 1)


@pytest.mark.parametrize("loss", [squared_and_aligned, squared_and_widened, ranked])
def test_a_loss_that_takes_such_shapes_on_purpose_is_not_refused(tmp_path: Path, loss: Any) -> None:
    assert run_with(tmp_path, loss, 1).loss.batch_dependent is (loss is ranked)


def test_a_loss_without_a_mean_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one number a batch, not of shape"):
        run_with(tmp_path, nn.MSELoss(reduction="none"))


def test_a_loss_that_raises_is_refused_with_its_reason(tmp_path: Path) -> None:
    def broken(output: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("no such label")

    with pytest.raises(ConfigError, match="ValueError: no such label"):
        run_with(tmp_path, broken)


def test_a_loss_over_the_whole_batch_is_reported_as_one(tmp_path: Path) -> None:
    def spread(output: Tensor, targets: Tensor) -> Tensor:
        return 1 / (1e-3 + output.var())

    (note,) = run_with(tmp_path, spread).loss.notes
    assert "not the mean of its samples' losses" in note
    assert "dataset.batch_size" in note


def test_a_divisor_that_does_not_fit_is_reported_as_wrong(tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def forward(self, output: Tensor, targets: Tensor) -> Tensor:
            return F.mse_loss(output, targets)

        def divisor(self, targets: Tensor) -> Tensor:
            return targets.square().sum()

    (note,) = run_with(tmp_path, Wrong()).loss.notes
    assert "what its method divisor(targets) returns does not fit" in note


def test_examining_leaves_the_losss_own_state_alone(tmp_path: Path) -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, output: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            return F.mse_loss(output, targets)

    loss = Counting()
    made = run_with(tmp_path, loss)
    before = loss.calls
    made.loss(torch.zeros(3), torch.zeros(3))
    assert (before, loss.calls) == (0, 1)


def test_embeddings_under_a_contrastive_loss_have_no_accuracy(tmp_path: Path) -> None:
    def contrastive(output: Tensor, targets: Tensor) -> Tensor:
        near = (output[:, None] - output[None]).square().sum(-1)
        same = targets[:, None] == targets[None]
        return torch.where(same, near, F.relu(1 - near)).mean()

    run = run_with(tmp_path, contrastive, 16, batch_adapter=lambda batch: ((batch[0],), {}, batch[1]))
    assert run.loss.batch_dependent
    assert not run.loss.accuracy.classes


def test_a_metric_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric: given 'accuracy', expected auto or none, or scores"):
        run_with(tmp_path, nn.MSELoss(), optimization__metric="accuracy")


def test_a_run_without_accuracy_is_trained_and_recorded(tmp_path: Path) -> None:
    run = run_with(tmp_path, nn.MSELoss())
    run.train()
    assert [epoch["val_accuracy"] for epoch in notes_of(run).epochs] == [None] * 3

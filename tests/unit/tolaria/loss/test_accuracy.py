"""Accuracy is defined only for predictions that are right or wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.tolaria.loss.accuracy import Accuracy, accuracy_for, scores_of_classes

LABELS = torch.tensor([0, 1, 2, 1])
SCORES = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def share(accuracy: Accuracy, output: Any, targets: Any) -> float | None:
    counted = accuracy.count(output, targets)
    return None if counted is None else (counted[0] / counted[1]).item()


@pytest.mark.parametrize(
    ("loss", "output", "targets", "expected"),
    [
        (nn.CrossEntropyLoss(), SCORES, LABELS, 0.5),
        (nn.CrossEntropyLoss(), SCORES, torch.tensor([0, 1, -100, -100]), 1.0),
        (nn.CrossEntropyLoss(ignore_index=1), SCORES, LABELS, 0.5),
        (nn.CrossEntropyLoss(), SCORES, SCORES.softmax(1), None),
        (nn.CrossEntropyLoss(), SCORES.T[None], torch.tensor([[0, 1, 2, -100]]), 2 / 3),
        (
            nn.BCEWithLogitsLoss(),
            torch.tensor([[2.0], [0.1], [-1.0]]),
            torch.tensor([[1.0], [0], [0]]),
            2 / 3,
        ),
        (nn.BCELoss(), torch.tensor([0.9, 0.4, 0.6]), torch.tensor([1.0, 0, 0]), 2 / 3),
        (nn.BCEWithLogitsLoss(), SCORES - 0.5, torch.eye(4)[:, :3], 7 / 12),
        (nn.PoissonNLLLoss(), torch.zeros(4, 1), LABELS, None),
        (nn.PoissonNLLLoss(), torch.zeros(4, 1), LABELS[:, None], None),
        (nn.MSELoss(), SCORES, LABELS, None),
    ],
)
def test_right_answers_are_counted_where_there_are_any(
    loss: nn.Module, output: Tensor, targets: Tensor, expected: float | None
) -> None:
    found = share(accuracy_for(loss), output, targets)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("output", "targets", "expected"),
    [
        (torch.zeros(5, 3), torch.zeros(5, dtype=torch.long), True),
        (torch.zeros(5, 1), torch.zeros(5, dtype=torch.long), False),
        (torch.zeros(5, 3), torch.zeros(5), False),
        (torch.zeros(5), torch.zeros(5, dtype=torch.long), False),
        (torch.zeros(5, 3, 2), torch.zeros(5, 2, dtype=torch.long), True),
        (torch.zeros(5, 3, 2), torch.zeros(5, 3, dtype=torch.long), False),
        ({"logits": torch.zeros(5, 3)}, torch.zeros(5, dtype=torch.long), False),
    ],
)
def test_scores_have_several_columns(output: Any, targets: Any, expected: bool) -> None:
    assert scores_of_classes(output, targets) is expected


def test_the_metric_can_be_named() -> None:
    def own(output: Tensor, targets: Tensor) -> Tensor:
        return output.mean()

    logits, labels = torch.tensor([1.0, -1.0]), torch.tensor([1, 1])
    assert share(accuracy_for(own), logits, labels) is None
    assert share(accuracy_for(own, "binary_accuracy"), logits, labels) == 0.5
    assert share(accuracy_for(nn.CrossEntropyLoss(), "none"), SCORES, LABELS) is None
    assert share(accuracy_for(own, "accuracy", classes=False), SCORES, LABELS) == 0.5

"""Aggregators of other libraries, such as torchjd, through the same interface."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd.aggregation import TrimmedMean

from esper.errors import AggregationError
from esper.tolaria.gradients import MatrixAggregator, Tasks

ROWS = [[torch.randn(2, 3, generator=torch.Generator().manual_seed(i)), None] for i in range(3)]
ROWS[1][1] = torch.tensor(4.0)
TASKS = Tasks(("a", "b", "c"), ROWS)


def test_an_aggregator_of_torchjd_gets_the_shared_gradients() -> None:
    trimmed = TrimmedMean(trim_number=1)
    found = MatrixAggregator(trimmed).combine(TASKS).gradients
    expected = trimmed(torch.stack([row[0].reshape(-1) for row in ROWS if row[0] is not None]))
    assert found[0] is not None
    assert torch.equal(found[0], expected.view(2, 3))
    assert found[1] is ROWS[1][1]


def test_tasks_that_share_nothing_do_not_come_to_it() -> None:
    def is_open(matrix: Tensor) -> Tensor:
        raise AssertionError(matrix.shape)

    apart = Tasks(("a", "b"), [[torch.ones(2), None], [None, torch.ones(3)]])
    assert len(MatrixAggregator(is_open).combine(apart).gradients) == 2


@pytest.mark.parametrize(
    ("answer", "given"), [(torch.zeros(5), r"\(5,\)"), (torch.zeros(1, 6), r"\(1, 6\)"), (3.0, "float")]
)
def test_another_answer_is_refused(answer: Any, given: str) -> None:
    with pytest.raises(AggregationError, match=f"returned {given} for a matrix .3, 6.; expected"):
        MatrixAggregator(lambda matrix: answer).combine(TASKS)


class Momentum(nn.Module):
    """Keeps its last result as state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, matrix: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * matrix.mean(dim=0)
        return self.mean


def test_what_a_module_keeps_is_saved() -> None:
    made, other = MatrixAggregator(Momentum()), MatrixAggregator(Momentum())
    made.combine(TASKS)
    other.load_state_dict(made.state_dict())
    first, second = made.combine(TASKS).gradients[0], other.combine(TASKS).gradients[0]
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
    assert MatrixAggregator(torch.sum).state_dict() == {}

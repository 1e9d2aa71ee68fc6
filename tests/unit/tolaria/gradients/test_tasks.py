"""What tasks share, and what they do not."""

from __future__ import annotations

import pytest
import torch

from esper.errors import AggregationError
from esper.tolaria.gradients import Tasks

A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -4.0]])
HEAD, OTHER = torch.tensor([5.0]), torch.tensor(6.0)


def test_what_two_tasks_reach_is_shared_and_the_rest_stays_out() -> None:
    """A head of its own adds nothing to a task's norm, so nothing to how much is projected."""
    tasks = Tasks(("a", "b", "c"), [[A, HEAD, None, None], [B, None, OTHER, None], [None, None, None, None]])
    assert tasks.shared == [0]
    assert tasks.matrix.tolist() == [[1, 2], [3, -4], [0, 0]]
    assert tasks.products.tolist() == [[5, -5, 0], [-5, 25, 0], [0, 0, 0]]
    found = tasks.with_shared(torch.tensor([7.0, 8.0]))
    assert found[0] is not None
    assert found[0].tolist() == [[7, 8]]
    assert found[1] is HEAD
    assert found[2] is OTHER
    assert found[3] is None


def test_tasks_that_share_nothing_are_put_together() -> None:
    tasks = Tasks(("a", "b"), [[A, None], [None, HEAD]])
    assert tasks.shared == []
    assert tasks.alone() == [A, HEAD]


@pytest.mark.parametrize("rows", [[], [[], []], [[None, None], [None, None]]])
def test_without_gradients_there_is_an_error(rows: list[list[None]]) -> None:
    with pytest.raises(RuntimeError, match=r"^no gradients available for aggregation$"):
        Tasks(("a", "b"), rows)


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(AggregationError, match=r"tasks have \[1, 2\] gradients"):
        Tasks(("a", "b"), [[A, HEAD], [B]])


@pytest.mark.parametrize("other", [B.double(), torch.zeros(1, 2, device="meta")])
def test_gradients_of_several_dtypes_or_devices_are_refused(other: torch.Tensor) -> None:
    """Within a task and between tasks."""
    with pytest.raises(AggregationError, match="several d"):
        _ = Tasks(("a", "b"), [[A, HEAD], [other, HEAD]]).matrix
    with pytest.raises(AggregationError, match="several d"):
        _ = Tasks(("a", "b"), [[A, other], [B, other]]).matrix

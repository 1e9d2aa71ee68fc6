"""Weighted means of gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import AggregationError
from esper.tolaria.gradients import Mean, Tasks, Weighted
from esper.tolaria.gradients.weighted import normalized, weighted


@given(
    st.integers(0, 4).flatmap(lambda rank: st.lists(st.integers(1, 4), min_size=rank, max_size=rank)),
    st.lists(st.floats(0.1, 10), min_size=1, max_size=6),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_mean_by_weight_over_any_rank(shape: list[int], weights: list[float], dtype: torch.dtype) -> None:
    """Ranks 0 to 4; in the gradients' own dtype; weights need not add up to 1."""
    gradients = [torch.randn(shape).to(dtype) for _ in weights]
    before = [g.clone() for g in gradients]
    found = weighted(gradients, weights)
    assert found is not None
    assert (found.dtype, found.shape) == (dtype, torch.Size(shape))
    exact = sum(w * g.double() for w, g in zip(weights, gradients, strict=True)) / sum(weights)
    largest = max(g.double().abs().max() for g in gradients)
    assert (found - exact).abs().max() <= 4 * len(weights) * torch.finfo(dtype).eps * largest
    assert all(torch.equal(a, b) for a, b in zip(gradients, before, strict=True))


def test_the_weights_are_made_on_the_gradients_device() -> None:
    """Each gradient's own, so that a model may be spread over several."""
    found = weighted([torch.zeros(2, 3, device="meta"), torch.ones(2, 3, device="meta")], [1, 3])
    assert found is not None
    assert found.device.type == "meta"


def test_nothing_counts_as_zero() -> None:
    found = weighted([None, torch.tensor([4.0])], [1, 3])
    assert found is not None
    assert found.tolist() == [3.0]
    assert weighted([None, None], [1, 3]) is None


@pytest.mark.parametrize(
    "weights", [[0.0, 0.0], [1.0, -1.0], [math.nan, 1.0], [math.inf, 1.0], [math.inf, -math.inf], []]
)
def test_weights_without_a_sum_are_refused(weights: list[float]) -> None:
    with pytest.raises(AggregationError, match="expected a finite sum"):
        normalized(weights)
    with pytest.raises(AggregationError, match="expected a finite sum"):
        weighted([torch.zeros(3) for _ in weights], weights)
    if weights:
        with pytest.raises(AggregationError, match="expected a finite sum"):
            Weighted({str(i): weight for i, weight in enumerate(weights)})


def test_as_many_weights_as_gradients_of_one_shape() -> None:
    with pytest.raises(AggregationError, match="2 weights for 1 gradients"):
        weighted([torch.zeros(3)], [1, 2])
    with pytest.raises(AggregationError, match=r"shapes \[\(2,\), \(3,\)\]"):
        weighted([torch.zeros(3), torch.zeros(2)], [1, 2])


LOSSES = {"a": torch.tensor(1.0), "b": torch.tensor(5.0)}
ROWS = [[torch.tensor([1.0, 2.0]), None], [torch.tensor([3.0, -2.0]), torch.tensor(8.0)]]


def test_the_mean_of_objectives_is_the_gradient_of_their_mean_loss() -> None:
    found = Mean().combine(Tasks(("a", "b"), ROWS))
    assert [g.tolist() for g in found.gradients if g is not None] == [[2.0, 0.0], 4.0]
    assert Mean().combine_losses(LOSSES).item() == 3


def test_objectives_weigh_by_name() -> None:
    made = Weighted({"b": 3, "a": 1, "absent": 4})
    found = made.combine(Tasks(("a", "b"), ROWS))
    assert [g.tolist() for g in found.gradients if g is not None] == [[2.5, -1.0], 6.0]
    assert found.weights == [0.25, 0.75]
    assert made.combine_losses(LOSSES).item() == 4
    assert Weighted().combine(Tasks(("a", "b"), ROWS)).weights == [0.5, 0.5]


def test_micro_batches_weigh_by_their_samples() -> None:
    """The mean knows nothing of sizes; by weight it is the full batch's gradient."""
    tasks = Tasks(("0", "1"), ROWS, shares=[0.25, 0.75])
    assert Weighted({"a": 1}).combine(tasks).weights == [0.25, 0.75]
    assert Mean().combine(tasks).weights == [0.5, 0.5]


def test_an_objective_without_a_weight_is_refused() -> None:
    with pytest.raises(AggregationError, match=r"'b' has no weight.*for a, typo"):
        Weighted({"a": 1, "typo": 2}).combine(Tasks(("a", "b"), ROWS))
    with pytest.raises(AggregationError, match="'b' has no weight"):
        Weighted({"a": 1}).combine_losses(LOSSES)

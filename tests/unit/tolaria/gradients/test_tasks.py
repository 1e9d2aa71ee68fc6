"""Shared and unshared gradients of tasks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import AggregationError
from esper.tolaria.gradients import Tasks
from esper.tolaria.gradients.tasks import Layout, flatten, unflatten

A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -4.0]])
HEAD, OTHER = torch.tensor([5.0]), torch.tensor(6.0)


def test_what_two_tasks_reach_is_shared_and_the_rest_stays_out() -> None:
    """A task's own head does not count in its norm, and so not in the projection."""
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
    assert tasks.unshared() == [A, HEAD]


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


SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=6)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@given(SHAPES, DTYPES)
def test_flat_gradients_are_the_same_again(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    """Scalars and ranks up to 4, device and dtype kept, nothing shared with the originals."""
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    flat, layout = flatten(tensors)
    assert (flat.dtype, flat.shape) == (dtype, (sum(t.numel() for t in tensors),))
    back = unflatten(flat, layout)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(back, tensors, strict=True))
    before = [t.clone() for t in tensors]
    flat.zero_()
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert all(not part.any() for part in back)


def test_strides_do_not_matter() -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    flat, layout = flatten([tensor])
    assert flat.tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(unflatten(flat, layout)[0], tensor)


def test_a_flat_gradient_is_written_to_out() -> None:
    out = torch.zeros(5)
    flat, _ = flatten([torch.ones(2, 2), torch.tensor(3.0)], out=out)
    assert flat is out
    assert out.tolist() == [1, 1, 1, 1, 3]


def test_the_device_is_kept() -> None:
    parts = unflatten(torch.zeros(4, device="meta"), Layout((torch.Size([3]), torch.Size([]))))
    assert [(part.device.type, part.shape) for part in parts] == [("meta", (3,)), ("meta", ())]


def test_nothing_to_flatten_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"^no gradients available for aggregation$"):
        flatten([])
    with pytest.raises(RuntimeError, match=r"^no gradients available for aggregation$"):
        flatten([], out=torch.zeros(3))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (torch.zeros(2, device="meta"), "several devices .cpu, meta."),
        (torch.zeros(2, dtype=torch.float64), "several dtypes .torch.float32, torch.float64."),
        (torch.zeros(2).to_sparse(), "several layouts"),
    ],
)
def test_unlike_gradients_are_refused(other: torch.Tensor, what: str) -> None:
    with pytest.raises(AggregationError, match=what):
        flatten([torch.zeros(3), other])
    with pytest.raises(AggregationError, match=what):
        flatten([torch.zeros(2)], out=other)


@pytest.mark.parametrize("flat", [torch.zeros(4), torch.zeros(6), torch.zeros(1, 5), torch.zeros(())])
def test_wrong_lengths_are_refused(flat: torch.Tensor) -> None:
    layout = Layout((torch.Size([2, 2]), torch.Size([])))
    with pytest.raises(AggregationError, match=r"expected \(5,\)"):
        unflatten(flat, layout)
    with pytest.raises(AggregationError, match=r"expected \(5,\)"):
        flatten([torch.zeros(2, 2), torch.zeros(())], out=flat)

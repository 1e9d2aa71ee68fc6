from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.tolaria.checkpoint.buffers import BufferPool

LAYOUTS = [
    lambda: torch.randn(3, 4),
    lambda: torch.randn(3, 4).t(),
    lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    lambda: torch.tensor(7),
    lambda: torch.randn(0, 3),
    lambda: torch.randn(3, 4, dtype=torch.bfloat16),
    lambda: torch.randn(1).expand(4),
    lambda: torch.randn(8)[::2],
    lambda: torch.tensor([True, False]),
    lambda: nn.Parameter(torch.randn(2, 2)),
    lambda: torch.zeros(2, dtype=torch.complex64),
]


def group(*numbers: int) -> dict[str, dict[str, Tensor]]:
    return {"owner": {str(i): LAYOUTS[n]() for i, n in enumerate(numbers)}}


def pointers(groups: dict[str, dict[str, Tensor]]) -> set[int]:
    return {t.data_ptr() for g in groups.values() for t in g.values() if t.numel()}


@given(st.lists(st.lists(st.integers(0, len(LAYOUTS) - 1), max_size=6), max_size=4))
def test_copies_are_equal_own_and_of_the_same_layout(rounds: list[list[int]]) -> None:
    pool = BufferPool()
    for numbers in rounds:
        given_ = group(*numbers)
        copies = pool.copy(given_)
        for name, source in given_["owner"].items():
            copy = copies["owner"][name]
            assert torch.equal(copy, source)
            assert copy.dtype is source.dtype
            assert not copy.requires_grad
            if source.is_contiguous(memory_format=torch.channels_last) and source.dim() == 4:
                assert copy.stride() == source.stride()
        assert not pointers(copies) & pointers(given_)
        pool.release(copies)


def test_what_is_given_back_is_lent_again_and_only_then() -> None:
    pool, state = BufferPool(), group(0, 2, 9, 6, 7)
    first, second = pool.copy(state), pool.copy(state)
    assert not pointers(first) & pointers(second)
    pool.release(first)
    assert pool.free_bytes == sum(t.nbytes for t in first["owner"].values())
    third = pool.copy(state)
    assert pointers(third) == pointers(first)
    assert pool.free_bytes == 0


def test_no_memory_is_gathered_however_often_it_is_used() -> None:
    """Also for expanded tensors, whose copies have another layout."""
    pool, state = BufferPool(), group(*range(len(LAYOUTS)))
    for _ in range(5):
        pool.release(pool.copy(state))
    assert pool.free_bytes == sum(torch.empty_like(t).nbytes for t in state["owner"].values())


def test_what_is_not_the_pools_is_not_taken_in() -> None:
    pool = BufferPool()
    lent = pool.copy(group(0))
    pool.release(group(0))
    assert pool.free_bytes == 0
    pool.release(lent)
    pool.release(lent)
    assert pool.free_bytes == 48


def test_it_lets_go_of_the_largest_first() -> None:
    pool = BufferPool()
    pool.release(pool.copy({"a": {"big": torch.zeros(100), "small": torch.zeros(10)}}))
    pool.trim(440)
    assert pool.free_bytes == 440
    pool.trim(439)
    assert pool.free_bytes == 40
    pool.trim(0)
    assert pool.free_bytes == 0


class Unreadable(Tensor):
    """Cannot be copied from."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch._foreach_copy_:
            raise torch.OutOfMemoryError("no memory left")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_copy_that_fails_lends_nothing() -> None:
    pool = BufferPool()
    try:
        pool.copy({"a": {"x": torch.zeros(4), "y": torch.zeros(4).as_subclass(Unreadable)}})
    except torch.OutOfMemoryError:
        assert pool.free_bytes == 32
    else:
        raise AssertionError("it was copied")

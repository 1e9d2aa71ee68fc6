"""Which batches an epoch consists of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.runs import CPU, small_config
from hypothesis import given
from hypothesis import strategies as st

from esper.data import DataBundle, build_data
from esper.tolaria.batches import BatchSource


@pytest.fixture(scope="module")
def data() -> DataBundle:
    return build_data(small_config().dataset, seed=0, device=CPU)


def equal(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


def test_without_limits_it_is_the_loader(data: DataBundle) -> None:
    source = BatchSource(data.train)
    assert len(source) == len(data.train) == len(list(source.batches(1)))
    assert equal(list(source.batches(3)), list(data.train.batches(3)))
    assert source.batch_size == data.train.batch_size


@pytest.mark.parametrize(("limit", "length"), [(1, 1), (5, 5), (10_000, 40)])
def test_a_limit_takes_the_first_few(data: DataBundle, limit: int, length: int) -> None:
    source = BatchSource(data.train, limit=limit)
    assert len(source) == length
    assert equal(list(source.batches(2)), list(data.train.batches(2))[:length])


def test_one_batch_over_and_over_in_every_epoch(data: DataBundle) -> None:
    source = BatchSource(data.train, limit=4, repeat_first=True)
    first = next(iter(data.train.batches(0)))
    for epoch in (1, 2):
        assert equal(list(source.batches(epoch)), [first] * 4)


@given(st.integers(1, 9), st.integers(0, 4), st.booleans())
def test_windows_lose_and_repeat_nothing(data: DataBundle, size: int, windows: int, repeat: bool) -> None:
    """From any position of an epoch, the rest of it."""
    source = BatchSource(data.train, limit=11, repeat_first=repeat)
    start = min(size * windows, 11)
    cut = list(source.windows(1, start, size))
    assert all(len(window) == size for window in cut[:-1])
    assert equal([batch for window in cut for batch in window], list(source.batches(1))[start:])


def test_at_the_end_of_an_epoch_there_is_no_window(data: DataBundle) -> None:
    assert list(BatchSource(data.train, limit=6).windows(1, 6, 2)) == []
    assert list(BatchSource(data.train).windows(1, len(data.train), 2)) == []

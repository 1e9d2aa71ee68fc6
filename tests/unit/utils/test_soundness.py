"""Pain 13: a model whose values are none is told from one that is sound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper.utils.soundness import is_buffer, unsound

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def never(name: str) -> bool:
    return False


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(DTYPES),
    value=st.sampled_from([math.nan, math.inf, -math.inf]),
    size=st.sampled_from([1, 7, 1 << 18, (1 << 18) + 5]),
    where=st.floats(0, 1, exclude_max=True),
)
def test_a_single_bad_value_is_found_wherever_it_is(
    dtype: torch.dtype, value: float, size: int, where: float
) -> None:
    tensor = torch.ones(size, dtype=dtype)
    assert unsound({"w": tensor}, never) == ""
    tensor[int(where * size)] = value
    assert unsound({"fine": torch.ones(3), "w": tensor}, never) == (
        f"w holds {'NaN' if math.isnan(value) else 'Inf'}"
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_whose_sum_is_none_are_sound_all_the_same(dtype: torch.dtype) -> None:
    """The sum is a short cut; the largest values there are do overflow it."""
    tensor = torch.full((4096,), torch.finfo(dtype).max, dtype=dtype)
    assert unsound({"w": tensor, "n": torch.arange(3), "empty": torch.ones(0)}, never) == ""


def test_infinities_of_both_signs_are_no_nan() -> None:
    tensor = torch.tensor([math.inf, -math.inf, 1.0])
    assert unsound({"w": tensor}, never) == "w holds Inf"
    assert unsound({"w": tensor}, lambda name: True) == ""
    assert unsound({"w": torch.tensor([math.inf, math.nan])}, lambda name: True) == "w holds NaN"


def test_buffers_are_known_by_name() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    model.register_buffer("mask", torch.full((2,), -math.inf))
    buffers = dict(model.named_buffers())
    for name in model.state_dict():
        assert is_buffer(model, name) is (name in buffers)
    assert not is_buffer(model, "gone.weight")

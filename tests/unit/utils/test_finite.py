"""NaN and infinite values of a model are found by name; infinite masks are accepted."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper.utils.finite import find_non_finite, is_buffer, non_finite_names

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    made.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    made.register_buffer("empty", torch.zeros(0))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sound_model_has_none(dtype: torch.dtype) -> None:
    assert non_finite_names(model().to(dtype)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.bias"])
def test_a_parameter_is_named(name: str, value: float) -> None:
    bad = model()
    with torch.no_grad():
        dict(bad.named_parameters())[name].view(-1)[-1] = value
    assert non_finite_names(bad) == [name]


def test_a_buffer_may_be_infinite_but_not_nan() -> None:
    bad = model()
    bad.get_buffer("1.running_var")[0] = math.inf
    assert non_finite_names(bad) == []
    bad.get_buffer("1.running_mean")[0] = math.nan
    assert non_finite_names(bad) == ["1.running_mean"]


def test_large_values_are_no_infinities() -> None:
    big = model()
    with torch.no_grad():
        dict(big.named_parameters())["0.weight"].fill_(3e38)
    assert non_finite_names(big) == []


def test_a_model_without_weights_is_sound() -> None:
    assert non_finite_names(nn.ReLU()) == []


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
    assert find_non_finite({"w": tensor}, never) == ""
    tensor[int(where * size)] = value
    assert find_non_finite({"fine": torch.ones(3), "w": tensor}, never) == (
        f"w holds {'NaN' if math.isnan(value) else 'Inf'}"
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_whose_sum_is_none_are_sound_all_the_same(dtype: torch.dtype) -> None:
    """The sum is a shortcut; the largest values overflow it."""
    tensor = torch.full((4096,), torch.finfo(dtype).max, dtype=dtype)
    assert find_non_finite({"w": tensor, "n": torch.arange(3), "empty": torch.ones(0)}, never) == ""


def test_infinities_of_both_signs_are_no_nan() -> None:
    tensor = torch.tensor([math.inf, -math.inf, 1.0])
    assert find_non_finite({"w": tensor}, never) == "w holds Inf"
    assert find_non_finite({"w": tensor}, lambda name: True) == ""
    assert find_non_finite({"w": torch.tensor([math.inf, math.nan])}, lambda name: True) == "w holds NaN"


def test_buffers_are_known_by_name() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    model.register_buffer("mask", torch.full((2,), -math.inf))
    buffers = dict(model.named_buffers())
    for name in model.state_dict():
        assert is_buffer(model, name) is (name in buffers)
    assert not is_buffer(model, "gone.weight")

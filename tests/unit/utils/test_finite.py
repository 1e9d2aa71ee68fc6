"""Pains 13: weights that are no numbers are found by name, and infinite masks are none of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from esper.utils.finite import non_finite


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    made.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    made.register_buffer("empty", torch.zeros(0))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sound_model_has_none(dtype: torch.dtype) -> None:
    assert non_finite(model().to(dtype)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.bias"])
def test_a_parameter_is_named(name: str, value: float) -> None:
    bad = model()
    with torch.no_grad():
        dict(bad.named_parameters())[name].view(-1)[-1] = value
    assert non_finite(bad) == [name]


def test_a_buffer_may_be_infinite_but_not_nan() -> None:
    bad = model()
    bad.get_buffer("1.running_var")[0] = math.inf
    assert non_finite(bad) == []
    bad.get_buffer("1.running_mean")[0] = math.nan
    assert non_finite(bad) == ["1.running_mean"]


def test_large_values_are_no_infinities() -> None:
    big = model()
    with torch.no_grad():
        dict(big.named_parameters())["0.weight"].fill_(3e38)
    assert non_finite(big) == []


def test_a_model_without_weights_is_sound() -> None:
    assert non_finite(nn.ReLU()) == []

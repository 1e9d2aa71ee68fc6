"""T2: one precision and one scaler for the whole run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.tolaria.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("mode", "device", "dtype", "scaled"),
    [
        (False, "cpu", None, False),
        (True, "cpu", torch.bfloat16, False),
        ("bf16", "cpu", torch.bfloat16, False),
        ("fp16", "cpu", torch.float16, True),
        ("bf16", "cuda", torch.bfloat16, False),
    ],
)
def test_modes(mode: bool | str, device: str, dtype: torch.dtype | None, scaled: bool) -> None:
    precision = Precision(mode, torch.device(device))
    assert precision.dtype is dtype
    assert (precision.scaler is not None) is scaled


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")
def test_true_means_fp16_where_there_is_cuda() -> None:
    assert Precision(True, torch.device("cuda")).dtype is torch.float16


@pytest.mark.parametrize(
    ("mode", "dtype"), [(False, torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_forward_runs_in_that_precision(mode: bool | str, dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 3)
    with Precision(mode, CPU).autocast():
        assert layer(torch.ones(2, 3)).dtype is dtype


def test_an_overflow_skips_the_step_and_lowers_the_scale() -> None:
    precision = Precision("fp16", CPU)
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    precision.backward((weight * torch.inf).sum())
    assert precision.scaler is not None
    before = precision.scaler.get_scale()
    precision.unscale(optimizer)
    precision.step(optimizer)
    assert torch.equal(weight.detach(), torch.ones(2))
    assert precision.scaler.get_scale() == before / 2
    optimizer.zero_grad()
    precision.backward(weight.sum())
    precision.unscale(optimizer)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(2))  # unscaled
    precision.step(optimizer)
    assert torch.allclose(weight.detach(), torch.full((2,), 0.9))


def test_the_scale_survives_a_checkpoint() -> None:
    precision = Precision("fp16", CPU)
    assert precision.scaler is not None
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    precision.backward((weight * torch.inf).sum())
    precision.step(optimizer)
    other = Precision("fp16", CPU)
    other.load_state_dict(precision.state_dict())
    assert other.state_dict() == precision.state_dict()
    assert other.scaler is not None
    assert other.scaler.get_scale() == precision.scaler.get_scale()


def test_full_precision_has_no_state_and_takes_none() -> None:
    precision = Precision(False, CPU)
    assert precision.state_dict() == {}
    precision.load_state_dict(Precision("fp16", CPU).state_dict())

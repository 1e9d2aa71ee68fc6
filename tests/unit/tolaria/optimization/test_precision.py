"""One precision and one scaler for the whole run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.runs import Notes
from torch import nn

from esper.errors import ConfigError
from esper.tolaria.events import Telemetry
from esper.tolaria.optimization.precision import Precision

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


def overflow(
    precision: Precision, optimizer: torch.optim.Optimizer, weight: nn.Parameter, value: float
) -> None:
    """One step, which overflows where `value` is infinite."""
    precision.backward((weight * value).sum())
    precision.unscale(optimizer)
    precision.step(optimizer)
    optimizer.zero_grad()


def test_skipped_steps_are_counted_logged_once_and_saved() -> None:
    """A skipped fp16 step is known."""
    precision, notes = Precision("fp16", CPU), Notes()
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for value in (1.0, torch.inf, 1.0, torch.nan):
        overflow(precision, optimizer, weight, value)
    assert precision.skipped_steps() == 2
    telemetry = Telemetry(notes)
    precision.report(telemetry)
    precision.report(telemetry)
    (event,) = notes.events
    assert event.name == "tolaria.precision.steps_skipped"
    assert event.data == {"skipped": 2, "total": 2, "scale": 2.0**14}
    other = Precision("fp16", CPU)
    other.load_state_dict(precision.state_dict())
    overflow(other, optimizer, weight, torch.inf)
    other.report(telemetry)
    assert notes.events[-1].data == {"skipped": 1, "total": 3, "scale": 2.0**13}


def test_in_full_precision_no_step_is_skipped_and_nothing_logged() -> None:
    precision, notes = Precision("bf16", CPU), Notes()
    precision.report(Telemetry(notes))
    assert precision.skipped_steps() == 0
    assert notes.events == []


@pytest.mark.parametrize("mode", ["fp8", "float16", "", 1.5, None])
def test_an_unknown_precision_is_refused(mode: Any) -> None:
    with pytest.raises(ConfigError, match=r"mixed_precision: given .*expected false, true, bf16 or fp16"):
        Precision(mode, CPU)


def test_unscaling_twice_in_a_step_is_an_error() -> None:
    """Exactly once."""
    precision = Precision("fp16", CPU)
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    precision.backward(weight.sum())
    precision.unscale(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        precision.unscale(optimizer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")
@pytest.mark.parametrize("mode", [False, "bf16", "fp16"])
def test_a_step_does_not_synchronise_with_the_device(mode: bool | str) -> None:
    """In fp16 only with a fused optimiser: otherwise torch's scaler reads the overflow."""
    device = torch.device("cuda")
    precision = Precision(mode, device)
    layer = nn.Linear(8, 8, device=device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    x = torch.randn(4, 8, device=device)

    def step() -> None:
        with precision.autocast():
            loss = layer(x).square().mean()
        precision.backward(loss)
        precision.unscale(optimizer)
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        precision.step(optimizer)
        optimizer.zero_grad()

    step()  # what is made lazily is made now
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


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

"""Alpha's schedules, a blend and its reversal, and the two ways of joining."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import GrowthError
from esper.kasmina.blending import BLEND_SCHEDULES, Blend, alpha_at, join, make_gate

SCHEDULES = st.sampled_from(BLEND_SCHEDULES)
SHARES = st.floats(0.0, 1.0)


@given(SCHEDULES, st.integers(1, 5000), SHARES, SHARES, st.data())
def test_alpha_is_clamped_and_monotone_and_hits_its_ends(
    schedule: str, total: int, start: float, end: float, data: st.DataObject
) -> None:
    step = data.draw(st.integers(-5, total + 5))
    here, next_ = (alpha_at(schedule, s, total, start, end) for s in (step, step + 1))
    assert min(start, end) <= here <= max(start, end)
    assert here <= next_ if end >= start else here >= next_
    assert alpha_at(schedule, 0, total, start, end) == start
    assert alpha_at(schedule, total, total, start, end) == end


@given(SCHEDULES, st.integers(1, 200))
def test_schedules_are_symmetric(schedule: str, total: int) -> None:
    for step in range(total + 1):
        there, back = alpha_at(schedule, step, total), alpha_at(schedule, total - step, total)
        assert there + back == pytest.approx(1.0)


def test_schedules_differ_in_their_middle_parts() -> None:
    quarter = [alpha_at(schedule, 1, 4) for schedule in ("linear", "cosine", "sigmoid")]
    assert quarter[0] == 0.25
    assert quarter[0] > quarter[1] > quarter[2] > 0.0


def test_no_steps_means_at_once() -> None:
    assert alpha_at("cosine", 0, 0) == 1.0
    blend = Blend()
    blend.start(0)
    assert blend.done and blend.alpha == 1.0
    blend.reverse()
    assert blend.done and blend.alpha == 0.0


@given(SCHEDULES, st.integers(1, 60), st.data())
def test_a_blend_runs_to_one_and_back_the_way_it_came(schedule: str, total: int, data: st.DataObject) -> None:
    blend = Blend(schedule)
    assert blend.alpha == 0.0 and not blend.done
    blend.start(total)
    turn = data.draw(st.integers(0, total))
    way = [blend.alpha, *(blend.tick() for _ in range(turn))]
    assert blend.done == (turn == total)
    blend.reverse()
    back = [blend.alpha]
    while not blend.done:
        back.append(blend.tick())
    assert back == way[::-1]
    assert blend.alpha == 0.0 and blend.reversed
    assert blend.tick() == 0.0


@given(SCHEDULES, st.integers(0, 40), st.integers(0, 50), st.booleans())
def test_a_blend_continues_from_its_saved_state(schedule: str, total: int, ticks: int, reverse: bool) -> None:
    blend = Blend(schedule)
    blend.start(total)
    for _ in range(ticks):
        blend.tick()
    if reverse:
        blend.reverse()
    twin = Blend("linear")
    twin.load_state_dict(json.loads(json.dumps(blend.state_dict())))
    for _ in range(5):
        assert (twin.alpha, twin.done, twin.reversed) == (blend.alpha, blend.done, blend.reversed)
        assert twin.tick() == blend.tick()


def test_wrong_names_and_numbers_are_refused() -> None:
    with pytest.raises(GrowthError, match=r"'cosin'.*Did you mean 'cosine'"):
        Blend("cosin")
    with pytest.raises(GrowthError, match="unknown blend schedule 'step'"):
        alpha_at("step", 0, 1)
    with pytest.raises(GrowthError, match="-1 steps"):
        Blend().start(-1)
    with pytest.raises(GrowthError, match="leaves"):
        alpha_at("linear", 0, 1, 0.0, 1.5)
    with pytest.raises(GrowthError, match="has not been started"):
        Blend().tick()
    h = torch.ones(1, 2)
    with pytest.raises(GrowthError, match=r"blend mode 'aditive'.*'additive'"):
        join("aditive", h, h, torch.zeros(()))
    with pytest.raises(GrowthError, match="needs a gate"):
        join("gated", h, h, torch.zeros(()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("delta_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["additive", "gated"])
def test_joining_keeps_the_host_dtype_and_at_alpha_zero_every_value(
    mode: str, dtype: torch.dtype, delta_dtype: torch.dtype
) -> None:
    """Whatever the seed puts out, alpha 0 leaves the host's output as it is."""
    torch.manual_seed(0)
    h, delta = torch.randn(2, 3, 4, 4, dtype=dtype), torch.randn(2, 3, 4, 4, dtype=delta_dtype)
    gate = make_gate("conv2d", 3)
    out = join(mode, h, delta, torch.zeros(()), gate)
    assert out.dtype == dtype and torch.equal(out, h)
    full = join(mode, h, delta, torch.ones(()), gate)
    torch.testing.assert_close(full, h + delta.to(dtype))


@pytest.mark.parametrize(
    ("layout", "shape"), [("features", (5, 3)), ("conv1d", (3, 5)), ("conv2d", (3, 5, 4))]
)
def test_the_gate_scales_channels(layout: str, shape: tuple[int, ...]) -> None:
    gate = make_gate(layout, 3).requires_grad_()
    h, delta = torch.zeros(2, *shape), torch.ones(2, *shape)
    with torch.no_grad():
        gate.copy_(torch.tensor([0.0, 1.0, 2.0]).view_as(gate))
    out = join("gated", h, delta, torch.tensor(0.5), gate)
    channels = out.movedim(-1 if layout == "features" else 1, 0).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.tensor([0.0, 0.5, 1.0]))
    out.sum().backward()
    assert gate.grad is not None and (gate.grad > 0).all()

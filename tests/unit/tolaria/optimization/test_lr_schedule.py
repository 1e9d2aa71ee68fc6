"""Learning rates compared with torch's schedulers, and features that those do not have."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.runs import small_config
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    StepLR,
)

from esper.errors import CheckpointError, ConfigError
from esper.runs import optimizer_factory, schedule_factory
from esper.tolaria.optimization.lr_schedule import (
    Factor,
    Horizon,
    LearningRate,
    constant,
    cosine,
    exponential,
    ramp,
    step,
    with_warmup,
)

LR = 0.3
horizons = st.builds(
    lambda per_epoch, epochs: Horizon(per_epoch * epochs, per_epoch), *[st.integers(1, 40)] * 2
)
factors = st.one_of(
    horizons.map(constant),
    st.builds(cosine, horizons, st.floats(0.0, 1.0)),
    st.builds(step, horizons, st.integers(1, 10), st.floats(0.01, 1.0)),
    st.builds(exponential, horizons, st.floats(0.01, 1.0)),
)


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=LR)


def torchs(make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int, every: int = 1) -> list[float]:
    """The rates torch's scheduler sets, stepped after every `every` optimiser steps."""
    sgd = optimizer()
    scheduler, rates = make(sgd), []
    for number in range(1, steps + 1):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        if number % every == 0:
            scheduler.step()
    return rates


def ours(factor: Factor, steps: int) -> list[float]:
    """The rates that are in force in each step of a run."""
    sgd = optimizer()
    sgd.param_groups[0]["base_lr"] = LR
    rates = []
    for at in range(steps):
        LearningRate(factor).apply(sgd, at)
        rates.append(sgd.param_groups[0]["lr"])
    return rates


def test_cosine_over_the_run_is_torchs_stepped_every_optimiser_step() -> None:
    horizon = Horizon(60, 12)
    theirs = torchs(lambda o: CosineAnnealingLR(o, T_max=60, eta_min=0.1 * LR), 60)
    assert ours(cosine(horizon, min_factor=0.1), 60) == pytest.approx(theirs, rel=1e-9)


def test_cosine_over_fewer_epochs_is_torchs_up_to_its_end() -> None:
    theirs = torchs(lambda o: CosineAnnealingLR(o, T_max=24), 25)
    assert ours(cosine(Horizon(60, 12), period_epochs=2), 25) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_step_and_exponential_are_torchs_stepped_every_epoch() -> None:
    horizon = Horizon(60, 12)
    theirs = torchs(lambda o: StepLR(o, step_size=2, gamma=0.5), 60, every=12)
    assert ours(step(horizon, step_size_epochs=2, gamma=0.5), 60) == pytest.approx(theirs, rel=1e-12)
    theirs = torchs(lambda o: ExponentialLR(o, gamma=0.9), 60, every=12)
    assert ours(exponential(horizon, gamma=0.9), 60) == pytest.approx(theirs, rel=1e-12)


def test_warm_up_is_torchs_linear_one_that_loses_no_step() -> None:
    theirs = torchs(lambda o: LinearLR(o, start_factor=1 / 8, end_factor=1.0, total_iters=7), 20)
    assert ours(with_warmup(constant(Horizon(20, 5)), warmup_steps=8), 20) == pytest.approx(theirs, rel=1e-9)


@given(factors, st.integers(0, 5000))
def test_a_factor_lies_between_0_and_1_at_any_step(factor: Factor, at: int) -> None:
    assert 0.0 <= factor(at) <= 1.0


@given(horizons, st.floats(0.0, 1.0), st.integers(0, 10_000))
def test_past_its_horizon_cosine_stays_where_it_ended(horizon: Horizon, least: float, late: int) -> None:
    """The documented continuation; torch's own goes up again."""
    assert cosine(horizon, min_factor=least)(horizon.total_steps + late) == pytest.approx(least)


@given(st.integers(0, 500), st.floats(0.0, 1.0))
def test_a_warm_up_rises_from_above_its_floor_to_exactly_1(steps: int, floor: float) -> None:
    line = [ramp(at, steps, floor) for at in range(steps + 3)]
    assert line == sorted(line)
    assert line[max(0, steps - 1)] == line[-1] == 1.0
    assert all(value >= floor for value in line)
    assert all(value > 0.0 for value in line)


@given(factors, st.integers(0, 300))
def test_after_the_warm_up_nothing_is_left_of_it(factor: Factor, warmup: int) -> None:
    warmed = with_warmup(factor, warmup)
    for at in range(warmup, warmup + 5):
        assert warmed(at) == factor(at)


def test_a_group_that_came_later_warms_up_on_its_own_and_follows_the_same_policy() -> None:
    """New seeds."""
    sgd = optimizer()
    sgd.param_groups[0]["base_lr"] = LR
    late = {"params": [torch.nn.Parameter(torch.ones(1))], "base_lr": 0.1, "born_step": 10, "warmup_steps": 4}
    sgd.add_param_group(late | {"weight_decay": 0.5})
    factor = cosine(Horizon(40, 10))
    for at, share in [(10, 0.25), (11, 0.5), (12, 0.75), (13, 1.0), (20, 1.0)]:
        LearningRate(factor).apply(sgd, at)
        assert sgd.param_groups[0]["lr"] == pytest.approx(LR * factor(at))
        assert sgd.param_groups[1]["lr"] == pytest.approx(0.1 * factor(at) * share)
    assert sgd.param_groups[1]["weight_decay"] == 0.5


def test_a_configured_schedule_has_its_warm_up_and_floor() -> None:
    config = small_config(
        optimization__scheduler="exponential",
        optimization__scheduler_params={"gamma": 0.5, "warmup_steps": 4, "warmup_floor": 0.2},
    )
    made = schedule_factory(config)(Horizon(30, 10))
    assert [made.factor(at) for at in (0, 1, 2, 3, 10, 20)] == pytest.approx([0.4, 0.6, 0.8, 1.0, 0.5, 0.25])
    assert math.isclose(made.factor(29), 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimization__scheduler": "cosin"}, "optimization.scheduler"),
        ({"optimization__scheduler_params": {"gamma": 0.5}}, "gamma"),
        ({"optimization__scheduler_params": {"min_factor": -0.1}}, "min_factor: given -0.1"),
        ({"optimization__scheduler_params": {"warmup_steps": -1}}, "warmup_steps: given -1"),
        ({"optimization__scheduler_params": {"warmup_floor": 2}}, "warmup_floor: given 2"),
        (
            {"optimization__scheduler": "step", "optimization__scheduler_params": {"step_size_epochs": 0}},
            "step_size_epochs: given 0",
        ),
        (
            {"optimization__scheduler": "exponential", "optimization__scheduler_params": {"gamma": "fast"}},
            "gamma: given 'fast'",
        ),
    ],
)
def test_a_policy_or_parameter_that_is_unknown_or_out_of_range_raises(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule_factory(small_config(**options))(Horizon(30, 10))


# -- torch's own, through a resume, a graft and an extension -------------------------------------------

Made = Callable[[torch.optim.Optimizer], LRScheduler]
# ours (of a horizon), torch's (of its steps), and after how many steps torch's is stepped
POLICIES: dict[str, tuple[Callable[[Horizon], Factor], Callable[[Horizon], Made], bool]] = {
    "constant": (constant, lambda h: lambda o: ConstantLR(o, factor=1.0, total_iters=1), False),
    "cosine": (cosine, lambda h: lambda o: CosineAnnealingLR(o, T_max=h.total_steps), False),
    "step": (
        lambda h: step(h, step_size_epochs=2, gamma=0.3),
        lambda h: lambda o: StepLR(o, step_size=2, gamma=0.3),
        True,
    ),
    "exponential": (
        lambda h: exponential(h, gamma=0.8),
        lambda h: lambda o: ExponentialLR(o, gamma=0.8),
        True,
    ),
}
FLOORS = (0.0, 0.25)


def with_torchs_warmup(made: Made, steps: int, floor: float) -> Callable[[torch.optim.Optimizer], list[Any]]:
    """torch's policy and its linear warm-up, chained: their factors multiply."""
    start = floor + (1 - floor) / steps
    return lambda o: [made(o), LinearLR(o, start_factor=start, total_iters=steps - 1)]


def trace_of_torch(name: str, horizon: Horizon, warmup: int, floor: float) -> list[float]:
    _, torchs_own, by_epoch = POLICIES[name]
    sgd = optimizer()
    policy, warm = with_torchs_warmup(torchs_own(horizon), warmup, floor)(sgd)
    rates = []
    for number in range(1, horizon.total_steps + 1):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        if not by_epoch or number % horizon.steps_per_epoch == 0:
            policy.step()
        if number < warmup:
            warm.step()
    return rates


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("floor", FLOORS)
def test_every_policy_with_its_warm_up_is_torchs_through_a_resume_and_a_graft(
    name: str, floor: float
) -> None:
    """Saved and loaded after every step, a group joining midway; no rate is off by one."""
    horizon, warmup = Horizon(48, 6), 8
    sgd = optimizer()
    sgd.param_groups[0]["base_lr"] = LR
    rates: list[float] = []
    state = None
    for at in range(horizon.total_steps):
        rate = LearningRate(with_warmup(POLICIES[name][0](horizon), warmup, floor), horizon)
        if state is not None:
            rate.load_state_dict(json.loads(json.dumps(state)))
        assert rate.extension == ""
        if at == 20:
            late = {"params": [torch.nn.Parameter(torch.ones(1))], "base_lr": 0.1, "born_step": at}
            sgd.add_param_group(late | {"warmup_steps": 3})
        rate.apply(sgd, at)
        rates.append(sgd.param_groups[0]["lr"])
        state = rate.state_dict()
    expected = trace_of_torch(name, horizon, warmup, floor)
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", POLICIES)
def test_a_longer_run_follows_torchs_policy_of_its_new_length_and_says_so(name: str) -> None:
    """Extending at resume is explicit, and logged."""
    short, long = Horizon(24, 6), Horizon(48, 6)
    first = LearningRate(POLICIES[name][0](short), short)
    first.reduce(0.5)
    second = LearningRate(POLICIES[name][0](long), long)
    second.load_state_dict(first.state_dict())
    assert "24 steps, 6 an epoch; from here on it is for 48 steps" in second.extension
    sgd = optimizer()
    sgd.param_groups[0]["base_lr"] = LR
    rates = []
    for at in range(24, 48):
        second.apply(sgd, at)
        rates.append(sgd.param_groups[0]["lr"])
    expected = trace_of_torch(name, long, 1, 0.0)[24:]
    assert rates == pytest.approx([0.5 * rate for rate in expected], rel=1e-12, abs=1e-15)


def test_a_cosine_with_a_period_of_its_own_is_not_stretched_by_a_longer_run() -> None:
    short, long = (cosine(Horizon(steps, 6), period_epochs=4) for steps in (24, 48))
    assert [short(at) for at in range(60)] == [long(at) for at in range(60)]


# -- the scale ---------------------------------------------------------------------------------------


def test_a_cut_scales_every_rate_and_is_saved() -> None:
    sgd, alone = optimizer(), optimizer()
    for each in (sgd, alone):
        each.param_groups[0]["base_lr"] = LR
    rate = LearningRate(constant(Horizon(10, 5)))
    rate.reduce(0.5)
    rate.reduce(0.5)
    other = LearningRate(constant(Horizon(10, 5)))
    other.load_state_dict(rate.state_dict())
    other.apply(sgd, 3)
    other.apply_isolated(alone)
    assert sgd.param_groups[0]["lr"] == alone.param_groups[0]["lr"] == LR / 4


def test_a_seed_in_isolation_has_its_own_rate_whatever_the_policy() -> None:
    alone = optimizer()
    alone.param_groups[0]["base_lr"] = LR
    LearningRate(cosine(Horizon(10, 5))).apply_isolated(alone)
    assert alone.param_groups[0]["lr"] == LR


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5, math.nan, math.inf])
def test_rates_can_only_be_cut(factor: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0 and at most 1"):
        LearningRate(constant(Horizon(10, 5))).reduce(factor)


@pytest.mark.parametrize("scale", [0.0, math.nan, 2.0])
def test_a_saved_scale_that_cannot_be_is_refused(scale: float) -> None:
    with pytest.raises(CheckpointError, match="scale"):
        LearningRate(constant(Horizon(10, 5))).load_state_dict({"scale": scale, "horizon": None})


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_policy_of_ones_own_that_gives_no_rate_raises(value: float) -> None:
    sgd = optimizer()
    sgd.param_groups[0]["base_lr"] = LR
    with pytest.raises(ConfigError, match="factor at step 3"):
        LearningRate(lambda at: value).apply(sgd, 3)
    assert sgd.param_groups[0]["lr"] == LR


def test_an_optimiser_without_a_rate_raises() -> None:
    with pytest.raises(ConfigError, match=r"optimization\.optimizer.* argument lr"):
        optimizer_factory(small_config(optimization__optimizer="torch.optim.Optimizer"))

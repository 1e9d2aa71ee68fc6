from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers.hosts import HELPFUL
from torch import Tensor, nn

from esper.kasmina import Seed, gates
from esper.kasmina.seed import GRAD_COUNT, GRAD_SUM, OBJECTIVE_FIRST, OBJECTIVE_NOW
from esper.leyline import Gate


def make(body: nn.Module | None = None, placement: str = "series", mode: str = "additive") -> Seed:
    body = nn.Linear(4, 4) if body is None else body
    return Seed(body, placement=placement, mode=mode, layout="features", channels=4, rng_seed=1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_sanity_counts_values_that_are_not_finite(bad: float) -> None:
    """No NaN, in parameters and buffers."""
    seed = make(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    assert gates.sanity(seed).passed
    with torch.no_grad():
        seed.body[0].weight[0, :2] = bad
        seed.body[1].running_mean[0] = bad
    result = gates.sanity(seed)
    assert (result.gate, result.passed) == (Gate.SANITY, False)
    assert result.evidence == {"non_finite": 3.0} and result.reason == "3 values are NaN or infinite"


@pytest.mark.parametrize("placement", ["series", "parallel"])
def test_interface_tries_the_shapes(placement: str) -> None:
    seed = make(nn.Linear(4 if placement == "series" else 7, 4), placement)
    assert gates.interface(seed, (7,) if placement == "parallel" else (4,), (4,)).passed
    result = gates.interface(seed, (9,), (9,))
    assert not result.passed and "its module fails on shape (9,)" in result.reason
    wrong = gates.interface(make(nn.Linear(4, 3)), (4,), (4,))
    assert wrong.reason == "output shape (3,) is not the layer's (4,)" and not wrong.passed


def test_interface_leaves_modes_buffers_and_generators() -> None:
    """Row 27: a module that draws is tried, too."""

    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.rand_like(x)

    seed = make(nn.Sequential(nn.BatchNorm1d(4), Drawing()))
    before, generator = seed.body[0].running_mean.clone(), torch.get_rng_state()
    assert gates.interface(seed, (4,), (4,)).passed
    assert seed.training and torch.equal(before, seed.body[0].running_mean)
    assert seed.body[0].num_batches_tracked == 0
    assert torch.equal(generator, torch.get_rng_state())


class InTraining(nn.Module):
    def __init__(self, do: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.do = do

    def forward(self, x: Tensor) -> Tensor:
        return self.do(x) if self.training else x


@pytest.mark.parametrize(
    ("do", "problem"),
    [
        (lambda x: x[:1], r"of \d samples its output, of shape \(1, 4\), holds another number"),
        (lambda x: x[:, :1], r"output shape \(1,\) is not the layer's \(4,\)"),
        (lambda x: x / x, "with values that are NaN or infinite"),
        (lambda x: x.view(7), r"its module fails on shape \(4,\)"),
    ],
)
def test_interface_tries_training_mode_too(do: Callable[[Tensor], Tensor], problem: str) -> None:
    result = gates.interface(make(InTraining(do)), (4,), (4,))
    assert not result.passed and re.search(problem, result.reason)


def test_interface_works_in_the_seed_s_own_precision() -> None:
    assert gates.interface(make().bfloat16(), (4,), (4,)).passed


@pytest.mark.parametrize(
    ("total", "count", "passed"),
    [
        (6.0, 3, True),
        (0.0, 3, False),
        (3e5, 3, False),
        (math.nan, 3, False),
        (math.inf, 3, False),
        (0.0, 0, True),
    ],
)
def test_gradients_have_to_arrive_and_be_of_a_sound_size(total: float, count: int, passed: bool) -> None:
    """Gradient health."""
    seed = make()
    seed.stats[GRAD_SUM], seed.stats[GRAD_COUNT] = total, count
    result = gates.gradient(seed)
    assert (result.gate, result.passed) == (Gate.GRADIENT, passed)
    assert result.evidence["samples"] == count


@pytest.mark.parametrize(
    ("first", "now", "passed"),
    [(1.0, 0.4, True), (1.0, 1.9, True), (1.0, 2.1, False), (1.0, math.nan, False), (0.0, 0.0, True)],
)
def test_an_objective_that_ran_away_is_not_stable(first: float, now: float, passed: bool) -> None:
    """Stability."""
    seed = make()
    seed.stats[OBJECTIVE_FIRST], seed.stats[OBJECTIVE_NOW] = first, now
    result = gates.stability(seed)
    assert (result.gate, result.passed) == (Gate.STABILITY, passed)
    assert result.evidence["objective_first"] == first


@pytest.mark.parametrize(
    ("gain", "passed"), [(0.01, True), (0.0, False), (-0.01, False), (math.nan, False), (math.inf, False)]
)
def test_only_a_seed_that_helps_has_impact(gain: float, passed: bool) -> None:
    """Impact, on against off."""
    result = gates.impact(replace(HELPFUL, loss_gain=gain))
    assert (result.gate, result.passed) == (Gate.IMPACT, passed)
    assert set(result.evidence) == {"loss_gain", "loss_gain_error", "accuracy_gain", "samples"}
    assert not gates.impact(None).passed and "not been measured" in gates.impact(None).reason


@pytest.mark.parametrize(
    ("left", "passed"),
    [((0, 0, 0), True), ((0, 0, None), True), ((1, 0, 0), False), ((0, 1, None), False), ((0, 0, 1), False)],
)
def test_reset_wants_nothing_left(left: tuple[int, int, int | None], passed: bool) -> None:
    """What was not counted is no evidence."""
    result = gates.reset(*left)
    assert (result.gate, result.passed) == (Gate.RESET, passed)
    assert ("optimiser_entries" in result.evidence) == (left[2] is not None)

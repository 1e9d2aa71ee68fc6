"""A run is checked by its losses and gradients against its own history, never by the clock."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.tolaria.recovery.divergence import (
    OVERFLOWS,
    TREND_STEPS,
    WARMUP_STEPS,
    WINDOW_STEPS,
    DivergenceDetector,
)


def verdicts(detector: DivergenceDetector, losses: Iterable[float], norm: float | None = 1.0) -> list[str]:
    return [wrong for loss in losses if (wrong := detector.check(loss, norm))]


def learning(steps: int, *, first: float = 2.3, last: float = 0.3, noise: float = 0.2) -> list[float]:
    """Losses of a run that learns, as noisy as batches are."""
    draw = random.Random(0)
    return [
        last + (first - last) * math.exp(-5 * i / steps) * (1 + noise * draw.uniform(-1, 1))
        for i in range(steps)
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("after", [0, 1, 500])
def test_what_is_no_number_is_wrong_at_any_time(value: float, after: int) -> None:
    losses = learning(500)[:after]
    detector = DivergenceDetector(10.0)
    assert verdicts(detector, losses) == []
    assert detector.check(value, 1.0) == f"the loss is {value}"
    assert detector.check(1.0, value) == f"the gradient's norm is {value}"
    assert DivergenceDetector(None).check(value, None) == f"the loss is {value}"


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.9])
def test_learning_is_healthy_however_noisy(noise: float) -> None:
    assert verdicts(DivergenceDetector(10.0), learning(2000, noise=noise)) == []


@settings(max_examples=60)
@given(
    scale=st.floats(1e-6, 1e6),
    offset=st.sampled_from([0.0, 0.0, -3.0, 5.0]),
    seed=st.integers(0, 9),
)
def test_learning_is_healthy_whatever_its_units(scale: float, offset: float, seed: int) -> None:
    """Also a loss that ends below zero."""
    draw = random.Random(seed)
    losses = [scale * (math.exp(-i / 60) * draw.uniform(0.5, 1.5) + offset) for i in range(300)]
    assert verdicts(DivergenceDetector(10.0), losses) == []


def test_a_loss_of_nearly_nothing_may_meet_a_hard_batch() -> None:
    """A memorised training set, and one sample that is wrong at a thousand times the usual loss."""
    losses = learning(300, last=1e-4) + [1e-4] * 200 + [5.0] + [1e-4] * 50
    assert verdicts(DivergenceDetector(10.0), losses) == []


def test_an_explosion_is_seen_at_its_step() -> None:
    detector = DivergenceDetector(10.0)
    assert verdicts(detector, learning(100)) == []
    (wrong,) = verdicts(detector, [40.0])
    assert wrong.startswith("the loss has exploded: 40, where it began at 2.")


def test_a_divergence_is_seen_within_a_window() -> None:
    detector = DivergenceDetector(10.0)
    assert verdicts(detector, learning(100, last=2.0)) == []
    found = [i for i in range(2 * WINDOW_STEPS) if detector.check(6.0, 1.0)]
    assert found
    assert found[0] <= WINDOW_STEPS + TREND_STEPS


def test_a_collapse_to_chance_is_seen_within_a_window_and_a_bump_is_none() -> None:
    detector = DivergenceDetector(10.0)
    assert verdicts(detector, learning(500)) == []
    assert verdicts(detector, [2.3] * (WINDOW_STEPS // 2 - 2)) == []
    assert verdicts(detector, [0.3] * WINDOW_STEPS) == []
    found = [wrong for _ in range(WINDOW_STEPS) if (wrong := detector.check(2.5, 1.0))]
    assert found[0].startswith("what was learnt has collapsed")


def test_nothing_learnt_is_no_collapse() -> None:
    draw = random.Random(0)
    assert verdicts(DivergenceDetector(10.0), [2.3 + 0.1 * draw.uniform(-1, 1) for _ in range(500)]) == []


def test_a_gradient_far_beyond_all_others_is_an_explosion() -> None:
    detector = DivergenceDetector(10.0)
    for norm in (*range(1, WARMUP_STEPS + 1), 500.0, 5000.0):
        assert detector.check(1.0, float(norm)) == ""
    assert "gradient has exploded" in detector.check(1.0, 1e8)
    assert detector.check(1.0, 1e4) == ""


def test_without_a_factor_only_what_is_no_number_counts() -> None:
    assert verdicts(DivergenceDetector(None), [*learning(100), *[1e9] * 100], norm=1e30) == []


def test_an_overflow_of_fp16_is_part_of_life_unless_it_does_not_end() -> None:
    detector = DivergenceDetector(10.0, overflows=True)
    assert verdicts(detector, [1.0] * (OVERFLOWS - 1), norm=math.inf) == []
    assert detector.check(1.0, 1.0) == ""
    assert verdicts(detector, [1.0] * (OVERFLOWS - 1), norm=math.nan) == []
    assert "overflowed" in detector.check(1.0, math.inf)


def test_what_was_wrong_is_not_remembered() -> None:
    """Else a second explosion would be measured by the first."""
    detector = DivergenceDetector(10.0)
    verdicts(detector, learning(100))
    before = detector.state_dict()
    assert detector.check(1e9, 1.0)
    assert detector.check(math.nan, 1.0)
    assert detector.state_dict() == before


@pytest.mark.parametrize("at", [0, 1, WARMUP_STEPS, 200])
def test_its_history_is_saved_and_taken_up_exactly(at: int) -> None:
    """JSON in between; both judge the rest alike."""
    losses = [*learning(300), *[2.5] * WINDOW_STEPS]
    whole, resumed = DivergenceDetector(10.0), DivergenceDetector(10.0)
    verdicts(whole, losses[:at])
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict(), allow_nan=False)))
    assert verdicts(resumed, losses[at:]) == verdicts(whole, losses[at:])
    assert resumed.state_dict() == whole.state_dict()


def test_single_samples_that_differ_much_are_no_explosion() -> None:
    """Squared errors at batch size 1: the median is 0.45, and one in some hundred is ten times that."""
    draw = random.Random(0)
    losses = [draw.gauss(0.0, 1.0) ** 2 for _ in range(3000)]
    assert max(losses) > 10 * 0.5
    detector = DivergenceDetector(10.0)
    assert verdicts(detector, losses) == []
    assert detector.check(1000.0, 1.0).startswith("the loss has exploded")
    restored = DivergenceDetector(10.0)
    restored.load_state_dict(detector.state_dict())
    assert restored.worst == detector.worst == max(losses[:WARMUP_STEPS])

"""The tests by which the benchmark claims something, against published and enumerated values."""

from __future__ import annotations

import itertools
import math

import pytest
from growth_arms.statistics import holm, paired_t, percentile, sign_flip
from hypothesis import given
from hypothesis import strategies as st

# Student's own example of 1908: ten patients, hours of sleep gained with two drugs; t is 4.0621 on 9 degrees
SLEEP = (
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
)


def test_paired_t_of_students_sleep_data() -> None:
    assert paired_t(*SLEEP) == pytest.approx(0.002833 / 2, rel=1e-3)
    assert paired_t(SLEEP[1], SLEEP[0]) == pytest.approx(1 - 0.002833 / 2, rel=1e-3)


def test_paired_t_without_spread_or_pairs() -> None:
    assert paired_t([2.0, 3.0], [1.0, 2.0]) == 0.0
    assert paired_t([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert math.isnan(paired_t([1.0], [0.0]))


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=7))
def test_sign_flip_is_the_share_of_enumerated_signs(differences: list[int]) -> None:
    sums = [sum(s * d for s, d in zip(signs, differences, strict=True))
            for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    expected = sum(s >= sum(differences) for s in sums) / len(sums)
    assert sign_flip(differences, [0] * len(differences)) == pytest.approx(expected)


def test_sign_flip_of_ten_wins_is_one_in_1024() -> None:
    assert sign_flip([0.3 + 0.01 * n for n in range(10)], [0.1] * 10) == pytest.approx(1 / 1024)


def test_sign_flip_says_nothing_of_what_it_cannot_enumerate() -> None:
    assert math.isnan(sign_flip([1.0] * 21, [0.0] * 21)) and math.isnan(sign_flip([], []))


def test_holm_steps_down_and_never_falls() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm_leaves_out_what_is_unknown() -> None:
    corrected = holm({"a": math.nan, "b": 0.02, "c": 0.9})
    assert math.isnan(corrected["a"])
    assert (corrected["b"], corrected["c"]) == (pytest.approx(0.04), pytest.approx(0.9))


def test_percentile_counts_ties_half() -> None:
    assert percentile(2.0, [1.0, 2.0, 3.0, 4.0]) == pytest.approx(37.5)
    assert percentile(9.0, [1.0, 2.0]) == 100.0

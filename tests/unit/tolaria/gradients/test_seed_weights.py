"""Weights from stage and alpha, and the steps that they scale."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import AggregationError
from esper.leyline import JOINED, SeedStage
from esper.tolaria.gradients.seed_weights import mix, resolve_weights

alphas = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(st.sampled_from(SeedStage), alphas)))
def test_a_weight_is_alpha_for_who_has_joined_and_0_for_others(seeds: list[tuple[SeedStage, float]]) -> None:
    weights = resolve_weights([stage for stage, _ in seeds], [alpha for _, alpha in seeds])
    assert weights == [alpha if stage in JOINED else 0.0 for stage, alpha in seeds]


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -0.1, 1.1])
def test_an_alpha_that_cannot_be_raises(alpha: float) -> None:
    with pytest.raises(AggregationError, match="alpha is"):
        resolve_weights([SeedStage.BLENDING], [alpha])


def test_wrong_lengths_raise_and_nothing_is_nothing() -> None:
    with pytest.raises(AggregationError, match="1 alphas for 2 seeds"):
        resolve_weights([SeedStage.BLENDING] * 2, [0.5])
    assert resolve_weights([], []) == []


@given(st.dictionaries(st.sampled_from("abc"), st.floats(0.0, 2.0)))
def test_only_steps_of_named_groups_are_scaled(weights: dict[str, float]) -> None:
    groups = [{"name": name, "lr": 0.25} for name in ("host", *"abc")]
    mix(groups, weights)
    assert [g["lr"] for g in groups] == [0.25 * weights.get(str(g["name"]), 1.0) for g in groups]


@pytest.mark.parametrize("weight", [math.nan, math.inf, -0.5])
def test_a_weight_that_cannot_be_raises_and_scales_nothing(weight: float) -> None:
    groups = [{"name": "a", "lr": 0.25}, {"name": "b", "lr": 0.25}]
    with pytest.raises(AggregationError, match="'b'"):
        mix(groups, {"a": 0.5, "b": weight})
    assert [g["lr"] for g in groups] == [0.25, 0.25]

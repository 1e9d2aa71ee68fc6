"""An epoch's sums become metrics, jumps and conflicts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import AggregationError
from esper.tolaria.gradients.seed_metrics import ENOUGH_PAIRS, SeedGradients, update_metrics, warnings

QUIET = SeedGradients("a", 0, "blending", 0.5, 0.5, 1.0, 0.3, 0.0, 0, 0)


def test_sums_become_means_over_samples() -> None:
    found = update_metrics([8.0, 0.5, 2.0, 3.0], last_share=0.1)
    assert found == {"norm": 2.0, "share": 0.25, "share_delta": pytest.approx(0.15), "conflicts": 3}


def test_an_owner_without_samples_is_zero_and_a_first_epoch_has_no_jump() -> None:
    found = update_metrics([0.0] * 4, last_share=None)
    assert found == {"norm": 0.0, "share": 0.0, "share_delta": None, "conflicts": 0}


@pytest.mark.parametrize("sums", [[], [1.0] * 3, [1.0, math.nan, 1.0, 0.0], [math.inf, 0.0, 1.0, 0.0]])
def test_sums_that_cannot_be_raise(sums: list[float]) -> None:
    with pytest.raises(AggregationError, match="expected 4 finite numbers"):
        update_metrics(sums, None)


def test_every_name_of_the_list_is_reported() -> None:
    names = ("weight", "norm", "share", "share_delta", "alpha", "conflicts", "conflict_ratio")
    assert set(QUIET.to_json()) == {"layer", "seed", "stage"} | {f"tolaria.grad_agg.seed.{n}" for n in names}


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_conflict_ratio_is_a_share_of_pairs(conflicts: int, more: int) -> None:
    seed = replace(QUIET, conflicts=conflicts, pairs=conflicts + more)
    if seed.pairs:
        assert seed.conflict_ratio is not None
        assert 0.0 <= seed.conflict_ratio <= 1.0
    else:
        assert seed.conflict_ratio is None


@pytest.mark.parametrize(("delta", "logged"), [(None, 0), (0.2, 0), (0.21, 1), (-0.3, 1)])
def test_a_jump_of_a_share_is_reported(delta: float | None, logged: int) -> None:
    found = list(warnings([replace(QUIET, share_delta=delta)]))
    assert [name for name, _ in found] == ["seed_share_jump"] * logged
    assert all(data["share_delta"] == delta and data["layer"] == "a" for _, data in found)


@pytest.mark.parametrize(
    ("conflicts", "pairs", "logged"),
    [(0, 0, 0), (ENOUGH_PAIRS - 1, ENOUGH_PAIRS - 1, 0), (ENOUGH_PAIRS // 2, ENOUGH_PAIRS, 0), (7, 8, 1)],
)
def test_high_conflict_is_reported_where_there_are_pairs_enough(
    conflicts: int, pairs: int, logged: int
) -> None:
    found = list(warnings([replace(QUIET, conflicts=conflicts, pairs=pairs)]))
    assert [name for name, _ in found] == ["seed_conflict_high"] * logged

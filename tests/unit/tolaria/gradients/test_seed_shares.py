"""Squared norms of gradients by owner, in order, with zeros for missing gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.errors import AggregationError
from esper.leyline import JOINED, SeedStage
from esper.tolaria.gradients.seed_shares import (
    COLUMNS,
    SAMPLES,
    SHARE,
    SQUARES,
    accumulate,
    added_gradient,
    conflicts,
    flat_gradient,
    largest,
    layer_norms,
    resolve_weights,
    scale_steps,
    squared_norms,
)

CPU = torch.device("cpu")
shapes = st.lists(st.lists(st.sampled_from([(), (3,), (2, 2), (1, 2, 3), None]), max_size=4), max_size=5)


def gradients(found: list[list[tuple[int, ...] | None]], scale: float = 1.0) -> list[list[Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    return [
        [None if s is None else scale * torch.randn(s, generator=generator) for s in row] for row in found
    ]


@given(shapes)
def test_every_owner_has_the_squared_norm_of_its_gradients_in_its_place(
    found: list[list[tuple[int, ...] | None]],
) -> None:
    rows = gradients(found)
    squares = squared_norms(rows, CPU)
    assert [len(part) for part in squares] == [len(row) for row in rows]
    for part, row in zip(squares, rows, strict=True):
        for value, gradient in zip(part.tolist(), row, strict=True):
            expected = 0.0 if gradient is None else float(gradient.square().sum())
            assert value == pytest.approx(expected, rel=1e-5)


@given(shapes, st.integers(1, 4))
def test_shares_add_up_to_1_and_absent_owners_have_none(
    found: list[list[tuple[int, ...] | None]], samples: int
) -> None:
    rows = gradients(found)
    if not any(g is not None for row in rows for g in row):
        return
    sums = torch.zeros(len(rows), COLUMNS)
    for _ in range(samples):
        accumulate(sums, squared_norms(rows, CPU))
    assert sums[:, SHARE].sum().item() == pytest.approx(samples, rel=1e-5)
    assert torch.equal(sums[:, SAMPLES], torch.full((len(rows),), float(samples)))
    for row, owner in zip(rows, sums, strict=True):
        if all(g is None for g in row):
            assert owner[SHARE] == owner[SQUARES] == 0.0


def test_mixed_dtypes_are_one_measure() -> None:
    rows: list[list[Tensor | None]] = [[torch.ones(4)], [torch.ones(4, dtype=torch.bfloat16)]]
    assert [part.tolist() for part in squared_norms(rows, CPU)] == [[4.0], [4.0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")
def test_mixed_devices_are_one_measure() -> None:
    rows: list[list[Tensor | None]] = [[torch.ones(4)], [torch.ones(4, device="cuda")]]
    assert [part.tolist() for part in squared_norms(rows, CPU)] == [[4.0], [4.0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_sample_without_a_sound_norm_counts_for_nothing(value: float) -> None:
    sums = torch.zeros(2, COLUMNS)
    sound = accumulate(sums, squared_norms([[torch.tensor([value])], []], CPU))
    assert not sound
    assert torch.equal(sums, torch.zeros(2, COLUMNS))


def test_wrong_lengths_raise() -> None:
    with pytest.raises(AggregationError, match="1 owners of gradients for 2 rows"):
        accumulate(torch.zeros(2, COLUMNS), [torch.ones(1)])
    with pytest.raises(AggregationError, match="1 gradients for 2 parameters"):
        flat_gradient([None], [torch.ones(1), torch.ones(2)])


@given(st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=6))
def test_what_micro_batches_added_is_found_again_in_what_was_accumulated(rows: list[list[float]]) -> None:
    whole, before = torch.zeros(3), None
    for row in rows:
        whole = whole + torch.tensor(row)
        now = flat_gradient([whole, None], [whole, torch.zeros(2)])
        added = added_gradient(now, before)
        assert torch.allclose(added[:3], torch.tensor(row), atol=1e-5)
        assert torch.equal(added[3:], torch.zeros(2))
        before = now


def test_conflicts_are_pairs_that_point_against_each_other() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.1])
    assert conflicts([a, a, b]).item() == 2
    assert conflicts([a, torch.tensor([0.0, 1.0])]).item() == 0


def test_the_parameters_of_a_layer_are_one_norm() -> None:
    names = ["body.0.weight", "body.0.bias", "body.2.weight", "gate"]
    norms = layer_norms(names, [18.0, 32.0, 8.0, 2.0], samples=2.0)
    assert norms == {"body.0": 5.0, "body.2": 2.0, "gate": 1.0}


def test_no_samples_are_zeros_and_wrong_lengths_raise() -> None:
    assert layer_norms(["a.weight"], [0.0], 0.0) == {"a": 0.0}
    with pytest.raises(AggregationError, match="1 norms for 2 parameters"):
        layer_norms(["a.weight", "b.weight"], [1.0], 1.0)


@given(st.dictionaries(st.text("abc", min_size=1), st.floats(0, 10)), st.integers(1, 5))
def test_the_largest_come_first(norms: dict[str, float], topk: int) -> None:
    found = largest(norms, topk)
    assert len(found) == min(topk, len(norms))
    assert list(found.values()) == sorted(norms.values(), reverse=True)[:topk]


def test_at_least_one_has_to_be_wanted() -> None:
    with pytest.raises(AggregationError, match="at least 1"):
        largest({"a": 1.0}, 0)


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
    scale_steps(groups, weights)
    assert [g["lr"] for g in groups] == [0.25 * weights.get(str(g["name"]), 1.0) for g in groups]


@pytest.mark.parametrize("weight", [math.nan, math.inf, -0.5])
def test_a_weight_that_cannot_be_raises_and_scales_nothing(weight: float) -> None:
    groups = [{"name": "a", "lr": 0.25}, {"name": "b", "lr": 0.25}]
    with pytest.raises(AggregationError, match="'b'"):
        scale_steps(groups, {"a": 0.5, "b": weight})
    assert [g["lr"] for g in groups] == [0.25, 0.25]

"""Norms of the layers inside a seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import AggregationError
from esper.tolaria.gradients.seed_layers import largest, layer_norms


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

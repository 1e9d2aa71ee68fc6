"""A sentence names key, given, expected and the nearest name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.config.messages import error_message, format_value, nearest_key, nearest_name
from esper.config.unknown import unknown_key

KEYS = ["mode", "seed", "model.architecture", "model.seeds_per_layer", "optimization.learning_rate"]


def test_a_problem_holds_all_four_parts() -> None:
    text = error_message("a.b", 3, "a text", "c")
    assert text == "a.b: given 3, expected a text; nearest: c"


def test_without_a_near_name_none_is_made_up() -> None:
    assert error_message("a", None, "a number") == "a: given null, expected a number"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "null"), (True, "true"), (False, "false"), ("x", "'x'"), (1.5, "1.5")]
)
def test_values_look_as_on_the_command_line(value: object, shown: str) -> None:
    assert format_value(value) == shown


def test_a_long_value_is_cut() -> None:
    assert len(format_value("x" * 500)) == 80


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("model.architectur", "model.architecture"),
        ("learning_rate", "optimization.learning_rate"),
        ("optimisation.learning_rate", "optimization.learning_rate"),
        ("sead", "seed"),
    ],
)
def test_the_nearest_key(key: str, near: str) -> None:
    assert nearest_key(key, KEYS) == near


@given(st.text())
def test_every_wrong_key_has_a_nearest_one(key: str) -> None:
    assert nearest_key(key, KEYS) in KEYS
    assert unknown_key(key, 1, KEYS).startswith(key)


def test_a_name_below_the_cutoff_is_none() -> None:
    assert nearest_name("xyz", ["adam", "sgd"], 0.6) is None
    assert nearest_name("ADAM", ["adam", "sgd"], 0.6) == "adam"

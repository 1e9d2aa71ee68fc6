"""An option carries its help text, unit and rule beside its default; a rule is one sentence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from esper.config import SeedConfig, TolariaConfig
from esper.config.option import (
    COUNT,
    Rule,
    choice,
    name_or_target,
    number,
    option,
    option_infos,
    url,
    weights_file,
)
from esper.config.serialization import ConfigGroup, option_names


@dataclasses.dataclass
class Inner(ConfigGroup):
    share: float = option(0.5, "A share.", number(ge=0, lt=1))
    names: list[str] = option(["a"], "Some names.")


@dataclasses.dataclass
class Outer(ConfigGroup):
    count: int = option(3, "A count.", COUNT, unit="epochs")
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_a_default_is_the_value_of_the_field_and_a_list_is_not_shared() -> None:
    first, second = Outer(), Outer()
    first.inner.names.append("b")
    assert (second.count, second.inner.share, second.inner.names) == (3, 0.5, ["a"])


def test_help_unit_and_rule_are_found_by_the_dotted_name() -> None:
    infos = option_infos(Outer)
    assert list(infos) == ["count", "inner.share", "inner.names"]
    assert (infos["count"].help, infos["count"].unit, infos["count"].rule) == ("A count.", "epochs", COUNT)
    assert infos["inner.names"].rule is None


def test_every_option_has_a_help_text_that_is_a_sentence() -> None:
    infos = option_infos(TolariaConfig)
    assert list(infos) == list(option_names(TolariaConfig))
    assert [key for key, info in infos.items() if not info.help[0].isupper() or info.help[-1] != "."] == []


@pytest.mark.parametrize(
    ("rule", "expected", "good", "bad"),
    [
        (number(ge=1), "a number at least 1", [1, 2.5], [0, float("inf"), float("nan")]),
        (number(gt=0, le=1), "a number above 0 and at most 1", [1, 0.1], [0, 1.1]),
        (number(ge=0, lt=1), "a number at least 0 and below 1", [0, 0.9], [1, -0.1]),
        (choice("a", "b"), "one of a, b", ["a"], ["c"]),
        (name_or_target(["b", "a"]), "one of a, b, or a dotted target", ["a", "my.B"], ["c", "my."]),
        (url("http"), "a URL that begins with http:// and names a host", ["http://h:1"], ["h", "http://"]),
        (Rule("a .safetensors file", weights_file), "a .safetensors file", ["w.safetensors"], ["w.pt", True]),
    ],
)
def test_a_rule_says_what_it_expects_and_finds_what_breaks_it(
    rule: Rule, expected: str, good: list[Any], bad: list[Any]
) -> None:
    assert rule.expected == expected
    assert [text for value in [None, *good] for text in rule.problems("key", value)] == []
    for value in bad:
        [text] = rule.problems("key", value)
        assert text.startswith("key: given ") and f", expected {expected}" in text


def test_a_changed_rule_of_a_field_is_what_validation_applies() -> None:
    """The bounds are written once: beside the field."""

    @dataclasses.dataclass
    class Strict(TolariaConfig):
        seed: int = option(0, "Another seed.", number(ge=0, le=9))

    from esper.config.validation import rule_violations

    assert rule_violations(Strict(seed=10)) == ["seed: given 10, expected a number at least 0 and at most 9"]
    assert rule_violations(TolariaConfig(seed=10)) == []


def test_a_group_on_its_own_has_its_own_names() -> None:
    assert next(iter(option_infos(SeedConfig))) == "isolation_steps"

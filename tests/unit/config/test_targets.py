"""Checks on the text of a target."""

from __future__ import annotations

import pytest

from esper.config.targets import is_dotted, is_within, name_problems, nested_targets


@pytest.mark.parametrize("name", ["a.b", "torch.nn.Linear", "_a.b"])
def test_dotted(name: str) -> None:
    assert is_dotted(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a", "a.", ".a", "a..b", "a b.c", "a.b()", "a.1", "${a}.b", "a/b.c"]
)
def test_not_dotted(name: str) -> None:
    assert not is_dotted(name)


def test_a_package_ends_at_a_dot() -> None:
    assert is_within("torch.nn.Linear", ["torch.nn"])
    assert is_within("torch.nn", ["torch.nn"])
    assert not is_within("torch.nn_evil.Linear", ["torch.nn"])
    assert not is_within("torch", ["torch.nn"])


def test_targets_are_found_at_any_depth() -> None:
    data = {"_target_": "a.b", "x": [1, {"_target_": "c.d", "_args_": [{"_target_": 3}]}], "y": {"z": {}}}
    assert list(nested_targets(data, "k")) == [
        ("k._target_", "a.b"),
        ("k.x[1]._target_", "c.d"),
        ("k.x[1]._args_[0]._target_", 3),
    ]


@pytest.mark.parametrize("target", ["os.system", "torch", 3, None, ["torch.nn.Linear"], "torch.nn.__class__"])
def test_what_is_not_inside_a_package_is_refused(target: object) -> None:
    assert len(name_problems("key", target, ["torch.nn"])) == 1


def test_what_is_inside_is_not() -> None:
    assert name_problems("key", "torch.nn.Linear", ["torch.nn"]) == []

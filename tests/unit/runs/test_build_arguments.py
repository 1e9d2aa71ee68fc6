"""Arguments are checked against the target's signature before it is called."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from esper.runs.signatures import check_arguments, leading_arguments, takes


def target(first: int, second: int = 2, *, third: int = 3) -> None: ...


def open_ended(first: int, **rest: int) -> None: ...


@pytest.mark.parametrize(
    ("given", "provided", "wrong"),
    [
        ({"first": 1}, (), []),
        ({}, ("first",), []),
        ({}, (), ["key.first: given no value"]),
        ({"first": 1, "secnd": 2}, (), ["key.secnd: given 2, expected an argument of"]),
        ({"_args_": [1]}, (), []),
        ({"_partial_": True}, (), []),
        ({"_convert_": "all", "_recursive_": True}, ("first",), []),
    ],
)
def test_arguments(given: dict[str, Any], provided: tuple[str, ...], wrong: list[str]) -> None:
    found = check_arguments(target, given, "key", provided)
    assert len(found) == len(wrong)
    assert all(text.startswith(start) for text, start in zip(found, wrong, strict=True))


def test_the_nearest_argument_is_one_that_the_user_may_give() -> None:
    [text] = check_arguments(torch.optim.AdamW, {"beta": 1}, "key", ("params", "lr"))
    assert text.endswith("nearest: betas")


def test_whoever_takes_anything_is_asked_for_the_rest_only() -> None:
    assert check_arguments(open_ended, {"first": 1, "other": 2}, "key") == []
    assert len(check_arguments(open_ended, {"other": 2}, "key")) == 1


def test_takes() -> None:
    assert takes(torch.optim.SGD, "momentum")
    assert not takes(torch.optim.Adam, "momentum")
    assert not takes(print, "momentum")


def test_leading_arguments() -> None:
    assert leading_arguments(torch.nn.functional.cross_entropy, 2) == ("input", "target")

"""Checks that policies share."""

from __future__ import annotations

from typing import Any


def counted(**values: Any) -> list[str]:
    """What is wrong with settings that count something: whole numbers of at least 1."""
    return [
        f"{name} is {value!r}; it must be a whole number of at least 1"
        for name, value in values.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]

"""Checks of arguments that several policies share."""

from __future__ import annotations

from typing import Any


def count_problems(**values: Any) -> list[str]:
    """Return one sentence for each value that is not a whole number of at least 1."""
    return [
        f"{name} is {value!r}; it must be a whole number of at least 1"
        for name, value in values.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]

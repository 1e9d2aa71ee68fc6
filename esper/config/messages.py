"""How a mistake in the configuration is put into one sentence, and the valid name nearest to a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

_LONGEST = 80  # characters of a given value that are repeated in a message


def format_value(value: Any) -> str:
    """`value` as it would stand on the command line, cut where it is long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):  # of a sweep
        return repr(",".join(format_value(each).strip("'") for each in value))
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def error_message(key: str, given: Any, expected: str, nearest: str | None = None) -> str:
    """One sentence: where, what stands there, what should."""
    hint = f"; nearest: {nearest}" if nearest else ""
    return f"{key}: given {format_value(given)}, expected {expected}{hint}"


def nearest_name(name: str, names: Iterable[str], cutoff: float = 0.0) -> str | None:
    """The most similar of `names`; None where none reaches `cutoff` (0 to 1)."""
    exact = {candidate.lower(): candidate for candidate in names}
    found = get_close_matches(name.lower(), exact, n=1, cutoff=cutoff)
    return exact[found[0]] if found else None


def nearest_key(key: str, valid: Sequence[str]) -> str | None:
    """The valid dotted name a wrong one most likely stands for: a neighbour, else the same name elsewhere."""
    group, _, leaf = key.rpartition(".")
    leaves = {name.rpartition(".")[2]: name for name in reversed(valid)}
    siblings = {n.rpartition(".")[2]: n for n in valid if n.rpartition(".")[0] == group}
    for names, cutoff in ((siblings, 0.7), (leaves, 0.8)):
        found = nearest_name(leaf, names, cutoff)
        if found is not None:
            return names[found]
    return nearest_name(key, valid)

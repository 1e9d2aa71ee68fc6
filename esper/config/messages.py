"""How a mistake in the configuration is put into one sentence, and the valid name nearest to a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from esper.config.familiar import Choices, Translation, translate

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


def unknown_key(key: str, given: Any, valid: Sequence[str], choices: Choices | None = None) -> str:
    """The sentence for an option that does not exist.

    Args:
        key: the dotted key as it was given.
        given: its value.
        valid: the dotted name of every option that exists.
        choices: the groups of configurations with their names, on the command line.
    """
    group = key.rpartition(".")[0]
    found = translate(key, given, valid, choices)
    if found is None:
        found = Translation(_nearest(key, given, valid, choices or {}) or "")
    place = f"an option of {group}" if found.words.startswith(f"{group}.") else "an option"
    if found.note:
        place = f"{found.words.partition('=')[0] or 'no such option'} ({found.note})"
    hint = f"; nearest: {found.words}" if found.words else ""
    return f"{key}: given an unknown key (value {format_value(given)}), expected {place}{hint}"


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


def _nearest(key: str, given: Any, valid: Sequence[str], choices: Choices) -> str | None:
    """The word that a misspelt key most likely stands for."""
    if isinstance(given, Mapping):
        groups = sorted({name.rpartition(".")[0] for name in valid} - {""})
        return nearest_name(key, groups, 0.7) or nearest_key(key, valid)
    if "." in key or not isinstance(given, str):
        return nearest_key(key, valid)
    # a text for a key without a dot is more likely meant as the choice of a group
    group = nearest_name(key, choices, 0.7)
    if group is not None:
        return f"{group}={given}" if given in choices[group] else group
    return nearest_name(key, valid, 0.8) or nearest_key(key, valid)

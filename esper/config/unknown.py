"""The sentence for an option that does not exist, with the one that was most likely meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esper.config.familiar import Choices, Translation, translate
from esper.config.messages import format_value, nearest_key, nearest_name


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

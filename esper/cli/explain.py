"""What Hydra and OmegaConf raise, as sentences that name key, given, expected and the nearest name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.conf import HydraConf
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from esper.config import TolariaConfig
from esper.config.familiar import translate_choice
from esper.config.messages import error_message, nearest_name
from esper.config.serialization import describe_type, enclosing_dict, option_names, option_type
from esper.config.unknown import unknown_key


def explain(error: Exception) -> str:
    """One sentence for an error of composition."""
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException):
        return _missing(error)
    chosen = re.match(r"Multiple values for (\S+)\. To override a value", str(error))
    if chosen:
        expected = f"{chosen[1]}=<option> without +: the group is already there"
        return error_message(chosen[1], f"+{chosen[1]}", expected, chosen[1])
    inner = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    if isinstance(inner, OmegaConfBaseException):
        return _omegaconf(inner, error)
    return f"configuration: {_one_line(error)}"


def unknown_option(key: str, given: Any, present: Sequence[str] = ()) -> str:
    """The sentence for a dotted key that is not in the schema, or not in a free dictionary.

    `present` are the keys that the dictionary has, one of which may have been meant.
    """
    parent = enclosing_dict(TolariaConfig, key)
    if parent is not None:
        near = nearest_name(key.rpartition(".")[2], present, 0.7)
        hint = f"{parent}.{near}" if near else None
        return error_message(key, given, f"+{key}, which adds to the free dictionary {parent}", hint)
    if key.startswith("hydra."):
        return unknown_key(key, given, list(option_names(HydraConf, "hydra.")))
    return unknown_key(key, given, list(option_names(TolariaConfig)))


def unknown_choice(group: str, given: str, options: Sequence[str]) -> str:
    """The sentence for an option that a group of configurations does not have."""
    expected = f"one of {', '.join(options)}" if options else "a group that has options"
    found = translate_choice(group, given)
    if found is None:
        return error_message(group, given, expected, nearest_name(given, options))
    return error_message(group, given, f"{expected} ({found.note})" if found.note else expected, found.words)


def _unreadable(error: OverrideParseException) -> str:
    reason = error.message.partition("\nSee https")[0].splitlines()
    hidden = ("Error parsing", "LexerNoViableAltException")  # of ANTLR's lexer comes only the name
    details = (line for line in reason if line.strip(" ^") and not line.startswith(hidden))
    detail = next(details, "a sign stands where it cannot")
    return f"{error_message(error.override, error.override, 'key=value')} ({detail})"


def _missing(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if error.options:
        return unknown_choice(group, option, list(error.options))
    return f"configuration: {_one_line(error)}"


def _omegaconf(inner: OmegaConfBaseException, outer: Exception) -> str:
    key = inner.full_key or "configuration"
    if isinstance(inner, ConfigKeyError | ConfigAttributeError):
        return unknown_option(key, _given(outer, inner.value), _keys(inner.parent_node))
    hint = option_type(TolariaConfig, key)
    if isinstance(inner, InterpolationResolutionError):
        missing = re.search(r"Missing mandatory value: ([\w.]+)", str(inner))
        if missing is not None:
            return f"{missing[1]}: given no value, expected {_what(option_type(TolariaConfig, missing[1]))}"
        given = f"an interpolation that cannot be resolved ({_one_line(inner)})"
        return f"{key}: given {given}, expected {_what(hint)}; as a text, ${{ is written \\${{"
    if isinstance(inner, ValidationError):
        return error_message(key, inner.value, _what(hint))
    text = _one_line(inner)
    return f"{key}: {text}" if inner is outer else f"{key}: {text} ({_one_line(outer)})"


def _given(error: Exception, value: Any) -> Any:
    """The value of an override that failed; Hydra has it only inside its advice."""
    advice = re.search(r"use \+[^=]+=(.*)", str(error), re.DOTALL)
    return advice[1] if advice else value


def _keys(node: Any) -> list[str]:
    return [str(key) for key in node] if isinstance(node, DictConfig) else []


def _what(hint: Any) -> str:
    return describe_type(hint) if hint is not None else "a value of the option's type"


def _one_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


COMPOSE_ERRORS = (HydraException, OmegaConfBaseException)

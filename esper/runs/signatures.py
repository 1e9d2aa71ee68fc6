"""Whether what a configuration gives to a class or function is what that takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esper.config.messages import error_message, nearest_name

Target = Callable[..., Any]

RESERVED = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


def check_arguments(
    target: Target, given: Mapping[str, Any], key: str, provided: Sequence[str] = ()
) -> list[str]:
    """A sentence for each argument that `target` does not take, or cannot do without.

    `provided` are those that are passed besides the given ones.
    """
    named = {
        n: p for n, p in _parameters(target).items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    title = f"{target.__module__}.{target.__qualname__}"
    missing = [n for n, p in named.items() if p.default is p.empty and n not in (*given, *provided)]
    if "_args_" in given or given.get("_partial_"):
        missing = []
    own = sorted(set(named) - set(provided))
    return [
        *(
            error_message(f"{key}.{name}", given[name], f"an argument of {title}", nearest_name(name, own))
            for name in _unknown(target, given, named)
        ),
        *(f"{key}.{name}: given no value, expected one: {title} cannot do without" for name in missing),
    ]


def takes(target: Target, name: str) -> bool:
    """Whether a class or function has an argument of this name."""
    return name in _parameters(target)


def leading_arguments(target: Target, count: int) -> tuple[str, ...]:
    """The names of the first arguments of a class or function."""
    return tuple(_parameters(target))[:count]


def _unknown(target: Target, given: Mapping[str, Any], named: Mapping[str, Any]) -> list[str]:
    parameters = _parameters(target)
    if not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    return [name for name in given if name not in named and name not in RESERVED]


def _parameters(target: Target) -> Mapping[str, inspect.Parameter]:
    """By name; empty where Python cannot tell, as of some functions written in C."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}

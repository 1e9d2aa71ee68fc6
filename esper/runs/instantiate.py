"""From a name in the configuration to the object it stands for, made with the arguments beside it.

Everything here raises `ConfigError` naming the option. This is the only module that calls Hydra's
`instantiate`, and only for arguments; what is called with them is the very object that was checked.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate

from esper.config import TolariaConfig
from esper.config.aliases import SHORT_NAMES
from esper.config.messages import error_message
from esper.config.targets import leftover_problems, nested_targets
from esper.errors import ConfigError, EsperError
from esper.runs.resolver import Resolver
from esper.runs.signatures import RESERVED, Target, check_arguments


def resolve(config: TolariaConfig, key: str, name: str, short: Mapping[str, str] | None = None) -> Target:
    """The class or function that `name`, the value of the option `key`, stands for, if it is allowed."""
    table = SHORT_NAMES[key] if short is None else short
    return Resolver(config.allowed_targets).resolve(key, name, table)


def make(
    config: TolariaConfig, key: str, target: Target, params: Mapping[str, Any], facts: Mapping[str, Any]
) -> Any:
    """What the target makes of the arguments in the configuration and of `facts`, which the run provides."""
    given = arguments(config, key, params)
    refuse(check_arguments(target, given, key, tuple(facts)))
    return call(target, key, {**facts, **given})


def arguments(config: TolariaConfig, key: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a free dictionary gives, targets inside it checked, then made."""
    wrong = [
        error_message(f"{key}.{name}", params[name], "a plain argument")
        for name in RESERVED
        if name in params
    ]
    refuse(wrong or Resolver(config.allowed_targets).check_nested(key, params))
    if not any(nested_targets(params, key)):
        return copy.deepcopy(dict(params))
    refuse(leftover_problems(params, key))
    try:
        made: dict[str, Any] = instantiate(dict(params), _convert_="all")
    except HydraException as error:
        raise ConfigError(f"{key}: {_reason(error)}") from error
    return made


def call(target: Target, key: str, arguments: Mapping[str, Any], *positional: Any) -> Any:
    """Call what a configuration named; whatever it raises becomes a `ConfigError` of the option `key`."""
    try:
        return target(*positional, **arguments)
    except EsperError:
        raise
    except Exception as error:  # a class of the user may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{key}: given {given or 'no arguments'}, expected what fits ({reason})") from error


def refuse(problems: list[str]) -> None:
    """Raise `ConfigError` if there are problems."""
    if problems:
        raise ConfigError(problems)


def _reason(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())

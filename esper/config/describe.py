"""What stands beside an option in `--help`, in the YAML of `conf/` and in the documentation."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Any

from esper.config.option import option_infos
from esper.config.serialization import ConfigGroup, option_type, options
from esper.config.yamlfile import inline_yaml


@dataclass(frozen=True, slots=True)
class DescribedOption:
    """One option in words.

    Args:
        key: dotted name.
        help: one or two sentences.
        type: such as "int" or "str or null".
        default: the library's default, as YAML.
        values: unit and limits of a value; empty where the type says all.
    """

    key: str
    help: str
    type: str
    default: str
    values: str

    @property
    def group(self) -> str:
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


def describe(group: ConfigGroup) -> list[DescribedOption]:
    """Every option below `group`, whose values are the defaults, depth first.

    Example:
        >>> from esper.config import SeedConfig
        >>> describe(SeedConfig())[0]  # doctest: +NORMALIZE_WHITESPACE, +ELLIPSIS
        DescribedOption(key='isolation_steps', help='Train a new seed alone ...', type='int', default='0',
            values='in steps, at least 0')
    """
    defaults = options(group)
    rows = []
    for key, info in option_infos(type(group)).items():
        limits = [f"in {info.unit}" if info.unit else "", info.rule.condition if info.rule else ""]
        values = ", ".join(filter(None, limits))
        hint = type_name(option_type(type(group), key))
        rows.append(DescribedOption(key, info.help, hint, inline_yaml(defaults[key]), values))
    return rows


def type_name(hint: Any) -> str:
    """The type of an option as a user of YAML would call it.

    Example:
        >>> type_name(float | None), type_name(dict[str, Any])
        ('float or null', 'dict')
    """
    if isinstance(hint, types.UnionType):
        return " or ".join(type_name(part) for part in typing.get_args(hint))
    if hint is types.NoneType:
        return "null"
    origin = typing.get_origin(hint)
    return "dict" if origin is dict else str(hint) if origin else hint.__name__

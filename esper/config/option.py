"""What an option is beside its name, type and default: help text, unit, and the rule that its value keeps.

A field of a configuration group is declared with `option`; validation, `--help` and the generated documents
all read what it stores.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from esper.config.familiar import familiar_value
from esper.config.messages import error_message, nearest_name
from esper.config.serialization import option_types
from esper.config.targets import is_dotted

T = TypeVar("T")

_KEY = "esper"  # of the metadata of a dataclass field


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on the value of one option; null is always allowed where the type allows it.

    Args:
        condition: what a value must be, in words that follow `noun`.
        holds: whether a value of the option's type meets it.
        names: the valid names, of which an error message shows the nearest.
        noun: the kind of value, where an error message needs it.
    """

    condition: str
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()
    noun: str = ""

    @property
    def expected(self) -> str:
        return f"{self.noun} {self.condition}".lstrip()

    def problems(self, key: str, value: Any) -> Iterator[str]:
        if value is None or self.holds(value):
            return
        near = familiar_value(key, value)
        if near is None and isinstance(value, str) and self.names:
            near = nearest_name(value, self.names, 0.5 if len(self.names) > 1 else 0.0)
        yield error_message(key, value, self.expected, near)


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """Help text, rule and unit of one option."""

    help: str
    rule: Rule | None = None
    unit: str = ""


def option(default: T, help: str, rule: Rule | None = None, *, unit: str = "") -> T:
    """Declare a field of a configuration group.

    Args:
        default: the default; each instance gets a copy of a list or dictionary.
        help: one or two sentences for the user.
        rule: what a value must be; None where the type says all.
        unit: unit of a number, where the name does not say it.

    Returns:
        The field, typed as its value, as `dataclasses.field` does.

    Example:
        >>> @dataclasses.dataclass
        ... class Group:
        ...     epochs: int = option(3, "Length of the run.", number(ge=1), unit="epochs")
        >>> Group().epochs, option_infos(Group)["epochs"].unit
        (3, 'epochs')
    """
    metadata = {_KEY: OptionInfo(help, rule, unit)}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def option_infos(group: type, prefix: str = "") -> dict[str, OptionInfo]:
    """Dotted name to help text, rule and unit of every option below `group`, depth first."""
    found: dict[str, OptionInfo] = {}
    hints = option_types(group)
    for field in dataclasses.fields(group):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            found |= option_infos(cast("type", hint), f"{key}.")
        else:
            found[key] = field.metadata[_KEY]
    return found


def allowed_names(group: type, key: str) -> tuple[str, ...]:
    """The names that the option `key` may hold; empty if it holds anything else, or is no option."""
    info = option_infos(group).get(key)
    return info.rule.names if info is not None and info.rule is not None else ()


def number(
    *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> Rule:
    """A finite number within the bounds that are given."""
    bounds = [
        ("at least", ge, operator.ge),
        ("above", gt, operator.gt),
        ("at most", le, operator.le),
        ("below", lt, operator.lt),
    ]
    given = [(words, limit, compare) for words, limit, compare in bounds if limit is not None]
    condition = " and ".join(f"{words} {limit}" for words, limit, _ in given)

    def holds(value: float) -> bool:
        return math.isfinite(value) and all(compare(value, limit) for _, limit, compare in given)

    return Rule(condition, holds, noun="a number")


def choice(*allowed: str) -> Rule:
    """One of a few names."""
    return Rule(f"one of {', '.join(allowed)}", lambda value: value in allowed, allowed)


def name_or_target(table: Iterable[str]) -> Rule:
    """A short name of `table`, or a dotted target."""
    known = tuple(sorted(table))
    expected = f"one of {', '.join(known)}, or a dotted target"
    return Rule(expected, lambda value: value in known or is_dotted(value), known)


def url(*schemes: str) -> Rule:
    """An address with one of the schemes and a host."""

    def holds(value: str) -> bool:
        try:
            parts = urlsplit(value)
            return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            return False

    return Rule(f"a URL that begins with {' or '.join(f'{s}://' for s in schemes)} and names a host", holds)


def weights_file(value: Any) -> bool:
    """Whether a value is the path of a safetensors file."""
    return isinstance(value, str) and value.endswith(".safetensors") and value != ".safetensors"


TEXT = Rule("a text that is not empty", lambda value: bool(value.strip()))
COUNT, NATURAL = number(ge=1), number(ge=0)
POSITIVE, SHARE = number(gt=0), number(ge=0, le=1)

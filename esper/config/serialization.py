"""Dataclasses from and to plain data: dictionaries, lists, strings, numbers, booleans, null."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar

from esper.config.aliases import short_name
from esper.config.familiar import familiar_value
from esper.config.messages import error_message
from esper.config.targets import TARGET, children
from esper.config.unknown import unknown_key
from esper.errors import ConfigError

MISSING = "???"  # what OmegaConf writes for an option that has to be given

_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list[str]: "a list of texts",
    dict[str, Any]: "a dictionary of plain values",
    types.NoneType: "null",
}


class ConfigGroup:
    """What every group of options can do; to be inherited by dataclasses.

    A group whose `_target_` takes the place of another option names that in `TARGET_OPTION`, by its whole
    dotted name: a group can be read on its own, too.
    """

    TARGET_OPTION: ClassVar[str | None] = None
    target_given = False  # no option: whether `_target_` was given and differs from the option itself

    def to_dict(self) -> dict[str, Any]:
        """All options as plain data, from which `from_dict` makes an equal group.

        Returns:
            A copy.
        """
        return typing.cast("dict[str, Any]", _plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A group from plain data.

        Args:
            data: Options by name; those that are left out keep their defaults.

        Returns:
            The group.

        Raises:
            ConfigError: With a sentence for every unknown key, wrong type and missing value.
        """
        group, problems = parse(cls, data)
        if problems:
            raise ConfigError(problems)
        return group


G = TypeVar("G", bound=ConfigGroup)


def parse(cls: type[G], data: Mapping[str, Any]) -> tuple[G, list[str]]:
    """A group from plain data and a sentence for everything in it that is wrong.

    The group is well typed in any case: an option whose value is wrong has its default.
    """
    reader = _Reader(cls)
    return typing.cast("G", reader.group(cls, data, "")), reader.problems


def as_given(group: ConfigGroup, problems: Iterable[str]) -> list[str]:
    """The same sentences, under the key `_target_` of a group where that was given."""
    keys = {
        f"{part.TARGET_OPTION}: ": f"{name}.{TARGET}: "
        for name, part in vars(group).items()
        if isinstance(part, ConfigGroup) and part.target_given
    }
    found = list(problems)
    for option, given in keys.items():
        found = [given + text.removeprefix(option) if text.startswith(option) else text for text in found]
    return found


def options(group: ConfigGroup, prefix: str = "") -> dict[str, Any]:
    """Dotted name to value of every option below a group."""
    flat: dict[str, Any] = {}
    for name in option_types(type(group)):
        value = getattr(group, name)
        flat |= (
            options(value, f"{prefix}{name}.") if isinstance(value, ConfigGroup) else {prefix + name: value}
        )
    return flat


@functools.cache
def _hints(group: Hashable) -> dict[str, Any]:
    hints = typing.get_type_hints(group)
    return {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not ClassVar}


def option_types(group: type) -> dict[str, Any]:
    """Name to type of every field of a group."""
    return _hints(group)


def option_names(group: type, prefix: str = "") -> Iterator[str]:
    """The dotted name of every option below `group`, depth first; groups themselves are left out."""
    for name, hint in option_types(group).items():
        if dataclasses.is_dataclass(hint):
            yield from option_names(typing.cast("type", hint), f"{prefix}{name}.")
        else:
            yield prefix + name


def option_type(group: type, key: str) -> Any:
    """The type of the option or group with a dotted name, None where there is no such thing."""
    hint: Any = group
    for part in key.split("."):
        if not dataclasses.is_dataclass(hint):
            return None
        hint = option_types(typing.cast("type", hint)).get(part)
    return hint


def enclosing_dict(group: type, key: str) -> str | None:
    """The free dictionary in which a dotted key lies, None where it lies in none."""
    parts = key.split(".")[:-1]
    above = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return next((name for name in above if option_type(group, name) == dict[str, Any]), None)


def describe_type(hint: Any) -> str:
    """What may stand for an option of this type, in words."""
    if dataclasses.is_dataclass(hint):
        return "a group of options"
    return " or ".join(_EXPECTED[part] for part in _parts(hint))


def _parts(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class _Reader:
    """Reads groups under one root and collects everything that is wrong."""

    def __init__(self, root: type) -> None:
        self.valid = list(option_names(root))
        self.problems: list[str] = []

    def group(self, cls: type[ConfigGroup], data: Any, prefix: str) -> Any:
        if not isinstance(data, Mapping):
            self.problems.append(error_message(prefix.rstrip(".") or cls.__name__, data, describe_type(cls)))
            return cls()
        hints = option_types(cls)
        for name in data:
            if name not in hints:
                self.problems.append(unknown_key(f"{prefix}{name}", data[name], self.valid))
        group = cls()
        for name, hint in hints.items():
            if name in data:
                self._set(group, name, hint, data[name], prefix + name)
        if cls.TARGET_OPTION is not None and (target := getattr(group, TARGET)) is not None:
            # one name for one thing below this point: the short one where there is one
            group.target_given = target != data.get(cls.TARGET_OPTION.rpartition(".")[2])
            setattr(group, cls.TARGET_OPTION.rpartition(".")[2], short_name(cls.TARGET_OPTION, target))
            setattr(group, TARGET, None)
        return group

    def _set(self, group: Any, name: str, hint: Any, value: Any, key: str) -> None:
        if dataclasses.is_dataclass(hint):
            setattr(group, name, self.group(typing.cast("type", hint), value, f"{key}."))
            return
        fitting = next((part for part in _parts(hint) if _fits(value, part)), None)
        unset = [f"{place}: given no value, expected {describe_type(hint)}" for place in _unset(value, key)]
        if unset:
            self.problems += unset
        elif fitting is None:
            self.problems.append(error_message(key, value, describe_type(hint), familiar_value(key, value)))
        else:
            setattr(group, name, float(value) if fitting is float else _plain(value))


def _unset(value: Any, key: str) -> Iterator[str]:
    """Where in a free dictionary or list a value is still to be given."""
    if isinstance(value, str) and value == MISSING:
        yield key
    for place, item in children(value, key):
        yield from _unset(item, place)


def _fits(value: Any, hint: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint == list[str]:
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if hint == dict[str, Any]:
        return isinstance(value, Mapping) and _is_plain(value)
    return isinstance(value, hint)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)

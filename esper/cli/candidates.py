"""The words that can stand next on a command line: flags, groups and their choices, keys and their values."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

from hydra._internal.utils import get_args_parser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from esper.cli.composer import Composer
from esper.cli.flags import Flags, parse_flags
from esper.config import TolariaConfig
from esper.config.option import allowed_names
from esper.config.serialization import option_type, option_types
from esper.errors import ConfigError

# What needs no quotes in a shell; anything else is left to the user.
_PLAIN = re.compile(r"[\w./:@%-]+")
_CHOICES: dict[str, Sequence[str]] = {
    "--config-dir": (),
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--shell-completion": tuple(
        f"{do}={sh}" for do in ("install", "uninstall") for sh in ("bash", "fish", "zsh")
    ),
}
_SHORT = {
    "-c": "--cfg",
    "-i": "--info",
    "-sc": "--shell-completion",
    "-p": "--package",
    "-cd": "--config-dir",
    "-cn": "--config-name",
}


def candidates(words: Sequence[str], current: str) -> list[str]:
    """The words that begin with `current` and may follow `words`, sorted; a path is left to the shell."""
    found = _found(words, current)
    return sorted({word for word in found if word.startswith(current) and word != current})


def _found(words: Sequence[str], current: str) -> Iterable[str]:
    before = _SHORT.get(words[-1], words[-1]) if words else ""
    if before in _CHOICES:
        return _CHOICES[before]
    if before == "--config-name":
        return _config_names(words)
    if before == "--package":
        return _Line(words[:-1]).keys("", current)
    if current.startswith("-"):
        return _flags()
    return _overrides(_Line(words), current)


def _flags() -> list[str]:
    names = [name for action in get_args_parser()._actions for name in action.option_strings]
    return [name for name in names if name.startswith("--")]


def _overrides(line: _Line, current: str) -> Iterator[str]:
    sign = re.match(r"~|\+{0,2}", current)[0]  # type: ignore[index]  # an empty one always matches
    body = current[len(sign) :]
    key, given, value = body.partition("=")
    if given:
        # of a sweep only the last value is completed
        kept = value[: value.rfind(",") + 1]
        yield from (f"{sign}{key}={kept}{each}" for each in line.values(key))
        return
    yield from (f"{sign}{word}" for word in line.groups(sign, body))
    if sign != "~":
        yield from (f"{sign}{word}" for word in line.keys(sign, body))


class _Line:
    """The part of a command line before the word that is completed."""

    def __init__(self, words: Sequence[str]) -> None:
        try:
            self.flags = parse_flags(words)
        except ConfigError:
            self.flags = Flags(tuple(word for word in words if "=" in word and not word.startswith("-")))

    @cached_property
    def composer(self) -> Composer:
        try:
            return Composer(self.flags)
        except ConfigError:
            return Composer(Flags())

    @cached_property
    def config(self) -> DictConfig:
        """What the line comes to; where it is not right, what the command alone does."""
        try:
            return self.composer.compose(self.flags.overrides, RunMode.MULTIRUN)
        except ConfigError:
            return Composer(Flags()).compose((), RunMode.RUN)

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        return self.composer.groups(self.flags.overrides)

    def groups(self, sign: str, body: str) -> Iterator[str]:
        """`group=`; after `+` those without a choice, after `~` those with one."""
        if sign == "++" or "." in body:
            return
        for group in self.choices:
            if group.startswith("hydra") and not body.startswith("hydra"):
                continue
            chosen = self.config.hydra.runtime.choices.get(group) if sign else None
            if sign == "" or (sign == "~") == (chosen is not None):
                yield group if sign == "~" else f"{group}="

    def keys(self, sign: str, body: str) -> Iterator[str]:
        """`key=` and `key.` one level below what is written so far; after a single `+` only what can grow."""
        parent = body.rpartition(".")[0]
        for name, grows in self._below(parent):
            key = f"{parent}.{name}" if parent else name
            if grows or sign != "+":
                yield f"{key}." if grows else f"{key}="
        if body.startswith("h") and not parent:
            yield "hydra."

    def _below(self, parent: str) -> Iterator[tuple[str, bool]]:
        """Every key of a group, and whether it is a group itself; composed only where the schema is open."""
        group = option_type(TolariaConfig, parent) if parent else TolariaConfig
        if dataclasses.is_dataclass(group):
            for name, hint in option_types(cast("type", group)).items():
                yield name, dataclasses.is_dataclass(hint) or hint == dict[str, Any]
            return
        node = OmegaConf.select(self.config, parent)
        if isinstance(node, DictConfig):
            yield from (
                (str(name), isinstance(value, DictConfig)) for name, value in node.items_ex(resolve=False)
            )

    def values(self, key: str) -> list[str]:
        """The choices of a group or an option, else the value that it has."""
        if key in self.choices:
            return self.choices[key]
        hint = option_type(TolariaConfig, key)
        if dataclasses.is_dataclass(hint):
            return []
        types = get_args(hint) or (hint,)
        named = [*allowed_names(TolariaConfig, key), *(["true", "false"] if bool in types else [])]
        if named:
            return named
        present = OmegaConf.select(self.config, key)
        shown = str(present).lower() if isinstance(present, bool) else str(present)
        return [shown] if isinstance(present, str | int | float) and _PLAIN.fullmatch(shown) else []


def _config_names(words: Sequence[str]) -> list[str]:
    """The YAML files in the folder that `--config-dir` names."""
    for flag, folder in pairwise(words):
        if _SHORT.get(flag, flag) == "--config-dir":
            return [path.stem for path in Path(folder).glob("*.yaml")]
    return []

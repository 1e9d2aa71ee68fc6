"""Flags that Hydra's parser does not have: most are options of another command line, as `--lr 0.1`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from esper.config import TolariaConfig, aliases
from esper.config.familiar import Translation, translate
from esper.config.familiar_values import as_given
from esper.config.messages import error_message, nearest_key, nearest_name
from esper.config.serialization import option_names, option_type

_CHOICES = {"model": tuple(aliases.MODELS), "dataset": tuple(aliases.DATASETS)}
_NUMBER = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", ".")
# Flags of one letter that timm and the examples of PyTorch have.
_SHORT = {"a": "arch", "b": "batch_size", "j": "workers"}
_FILE = ("--config", "--config-file", "--config_file", "--cfg-file", "--cfg_file", "--yaml")


def unknown_flags(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """A sentence for every word that looks like a flag and is not one of `flags`."""
    return [_sentence(argv, place, flags) for place in _unknown(argv, flags)]


def joined_flags(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The same for `-pretrained`, which Hydra's parser reads as `-p` with the value `retrained`."""
    places = [place for place in _unknown(argv, flags) if argv[place][1] != "-" and len(argv[place]) > 2]
    named = [place for place in places if meant(argv[place][1:].partition("=")[0], True)]
    return [_sentence(argv, place, flags) for place in named]


def file_flags(path: str) -> str:
    """The flags that name a file with a configuration."""
    return f"--config-dir {Path(path).parent} --config-name {Path(path).stem}"


def typed(text: str) -> Any:
    """A word of the command line as the value it means: a number, true, false, null or a text."""
    plain = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def meant(key: str, given: Any) -> Translation | None:
    """The words for an option that is written in any other way than `key=value`; None where none is known."""
    valid = list(option_names(TolariaConfig))
    if key in valid or dataclasses.is_dataclass(option_type(TolariaConfig, key)):
        return Translation(as_given(key, given))
    return translate(key, given, valid, _CHOICES)


def _unknown(argv: Sequence[str], flags: Sequence[str]) -> Iterator[int]:
    for place, word in enumerate(argv):
        if word == "--":
            return
        name = word.partition("=")[0]
        negative = word[1:].startswith(_NUMBER)
        abbreviated = (
            name.startswith("--") and name not in _FILE and any(flag.startswith(name) for flag in flags)
        )
        if word.startswith("-") and word != "-" and not negative and name not in flags and not abbreviated:
            yield place


def _sentence(argv: Sequence[str], place: int, flags: Sequence[str]) -> str:
    name, given, value = argv[place].partition("=")
    following = argv[place + 1] if place + 1 < len(argv) else ""
    if not given and following and not following.startswith("-") and "=" not in following:
        value, shown = following, f"{name} {following}"
    else:
        shown = argv[place]
    if name in _FILE and value:
        return error_message(name, shown, "flags that name a file with a configuration", file_flags(value))
    key = name.lstrip("-").replace("-", "_")
    key = _SHORT.get(key, key)
    found = meant(key, typed(value) if value else True)
    if found is None and key.startswith("no_"):
        found = meant(key.removeprefix("no_"), False)
    if found is not None:
        expected = (
            f"{found.words.partition('=')[0] or 'no such option'} ({found.note})" if found.note else None
        )
        return error_message(name, shown, expected or "an option as key=value, without dashes", found.words)
    flag = nearest_name(name, flags, 0.7)
    if flag is not None:
        return error_message(name, shown, "a flag that exists", flag)
    near = nearest_key(key, list(option_names(TolariaConfig))) if len(key) > 2 else None
    return error_message(name, shown, "an option as key=value, without dashes", near)

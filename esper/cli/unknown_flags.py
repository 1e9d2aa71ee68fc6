"""Flags that Hydra's parser does not have: most are options of another command line, as `--lr 0.1`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from esper.config import TolariaConfig, aliases
from esper.config.familiar import Translation, translate
from esper.config.familiar_values import as_given
from esper.config.messages import error_message, nearest_key, nearest_name
from esper.config.serialization import option_names, option_type

_CHOICES = {"model": tuple(aliases.MODELS), "dataset": tuple(aliases.DATASETS)}
# Flags of one letter that timm and the examples of PyTorch have.
_SHORT = {"a": "arch", "b": "batch_size", "j": "workers"}
_EXPECTED = "an option as key=value, without dashes"
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
    """Where the words stand that look like a flag and are none."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    for place, word in enumerate(argv[:end]):
        name = word.partition("=")[0]
        abbreviated = name.startswith("--") and any(flag.startswith(name) for flag in flags)
        known = name in flags or (abbreviated and name not in _FILE)
        if re.match(r"--?[^\W\d]", word) and not known:
            yield place


def _sentence(argv: Sequence[str], place: int, flags: Sequence[str]) -> str:
    name, shown, value = _parts(argv, place)
    if name in _FILE and value:
        return error_message(name, shown, "flags that name a file with a configuration", file_flags(value))
    key = name.lstrip("-").replace("-", "_")
    key = _SHORT.get(key, key)
    found = _meant_by_flag(key, value)
    if found is not None:
        option = found.words.partition("=")[0] or "no such option"
        return error_message(
            name, shown, f"{option} ({found.note})" if found.note else _EXPECTED, found.words
        )
    flag = nearest_name(name, flags, 0.7)
    if flag is not None:
        return error_message(name, shown, "a flag that exists", flag)
    near = nearest_key(key, list(option_names(TolariaConfig))) if len(key) > 2 else None
    return error_message(name, shown, _EXPECTED, near)


def _parts(argv: Sequence[str], place: int) -> tuple[str, str, str]:
    """Name, words as they were given, and value of a flag."""
    name, given, value = argv[place].partition("=")
    following = "".join(argv[place + 1 : place + 2])
    if given or not following or following.startswith("-") or "=" in following:
        return name, argv[place], value
    return name, f"{name} {following}", following


def _meant_by_flag(key: str, value: str) -> Translation | None:
    """What the flag is as an option; `--no-amp` is `--amp false`."""
    found = meant(key, typed(value) if value else True)
    return meant(key[3:], False) if found is None and key.startswith("no_") else found

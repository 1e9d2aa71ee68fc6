"""Words of the command line without a `=`: what they most likely mean, as a word that can be pasted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from esper.cli.unknown_flags import file_flags, meant, typed
from esper.config import TolariaConfig
from esper.config.messages import error_message, nearest_key, nearest_name
from esper.config.option import allowed_names
from esper.config.serialization import option_names, option_type

_KEY = re.compile(r"[A-Za-z_][\w.-]*")
_BRACKETS = ("[", "{")
_TRAINS = "nothing: the command trains when no word says otherwise"
# Commands that other programs have, with what is expected instead and the word for it.
_COMMANDS = {
    "help": ("a flag", "--help"),
    "version": ("a flag", "--version"),
    "completion": ("a flag", "--shell-completion install=bash"),
    **dict.fromkeys(("multirun", "sweep"), ("a flag", "--multirun")),
    **dict.fromkeys(("train", "fit", "run", "start"), (_TRAINS, None)),
    **dict.fromkeys(
        ("test", "eval", "evaluate", "predict"),
        ("key=value", "mode=test checkpoint.resume_from_checkpoint=<run folder>"),
    ),
    **dict.fromkeys(("validate", "check"), ("key=value", "validate_only=true")),
    "resume": ("key=value", "run_dir=<run folder> checkpoint.resume_from_checkpoint=auto"),
}


def split_words(
    lines: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str | None]]:
    """Each word, with None where it must be read as an override, else with a sentence.

    Words that belong together, as in `lr = 0.1` or `[layer1, layer2]`, are one mistake and not three.
    """
    left, before = list(lines), ""
    while left:
        used, text = _mistake(left, before, groups)
        yield left[0], text
        before = left[0]
        del left[:used]


def _mistake(
    words: Sequence[str], before: str, groups: Mapping[str, Sequence[str]]
) -> tuple[int, str | None]:
    """How many words belong together, and what is wrong with them; `before` is the word before them."""
    key, equals, value = words[0].partition("=")
    if words[0].startswith(("~", "=")):
        return 1, None
    if value:
        return _brackets(words) if value[0] in _BRACKETS else (1, _blanks(key, value))
    used, later = _value_apart(words)
    word = _word(key, typed(later)) if later is not None else None
    if word is not None:
        return used, error_message(key, " ".join(words[:used]), "key=value without blanks", word)
    if equals:
        return 1, None
    return _rest_of_text(words, before) if _holds_text(before) else (1, _alone(words[0], groups))


def _rest_of_text(words: Sequence[str], before: str) -> tuple[int, str]:
    """What the shell has cut from the text that an option was given."""
    used = next((n for n, each in enumerate(words) if "=" in each), len(words))
    text = " ".join([before, *words[:used]])
    return used, error_message(before.partition("=")[0], text, "quotes around blanks", shlex.quote(text))


def _brackets(words: Sequence[str]) -> tuple[int, str | None]:
    """A list or dictionary that the shell has cut at its blanks."""
    opened = [sum((sign in "[{") - (sign in "]}") for sign in word) for word in words]
    used = next((n for n in range(1, len(words) + 1) if sum(opened[:n]) <= 0), 1)
    if used == 1:
        return 1, None
    text = " ".join(words[:used])
    return used, error_message(text.partition("=")[0], text, "quotes around blanks", shlex.quote(text))


def _blanks(key: str, value: str) -> str | None:
    """`key = value` in one word."""
    word = _word(key.strip(), typed(value.strip())) if key != key.strip() else None
    return error_message(key.strip(), f"{key}={value}", "key=value without blanks", word) if word else None


def _value_apart(words: Sequence[str]) -> tuple[int, str | None]:
    """The value of a key that stands in a later word, and how many words that makes."""
    following = [*words[1:3], "=", "="][:2]
    if not words[0].endswith("="):
        if following[0] == "=" and "=" not in following[1]:
            return 3, following[1]
        if following[0].startswith("=") and len(following[0]) > 1:
            return 2, following[0][1:]
    return (1, None) if "=" in following[0] else (2, following[0])


def _holds_text(line: str) -> bool:
    """Whether this gives an option a text that may have blanks in it."""
    key = line.partition("=")[0].lstrip("+")
    hint = option_type(TolariaConfig, key)
    return "=" in line and str in (hint, *get_args(hint)) and not allowed_names(TolariaConfig, key)


def _word(key: str, value: Any) -> str | None:
    """`key=value` for a key that is known, also by another name or nearly."""
    if not _KEY.fullmatch(key):
        return None
    found = meant(key, value)
    if found is not None:
        return found.words or None
    near = nearest_key(key, list(option_names(TolariaConfig)))
    return f"{near}={value}" if near and "." in key and nearest_name(key, [near], 0.8) else None


def _alone(word: str, groups: Mapping[str, Sequence[str]]) -> str | None:
    """The sentence for one word; None where nothing like it is known."""
    if word in _COMMANDS:
        return error_message(word, word, *_COMMANDS[word])
    if Path(word).suffix in (".yaml", ".yml"):
        return error_message(word, word, "flags that name a file with a configuration", file_flags(word))
    choice = _choice(word, groups)
    if choice is not None:
        return error_message(word, word, "<group>=<option>", choice)
    near = _key_alone(word, groups)
    return error_message(word, word, "key=value", near) if near else None


def _key_alone(word: str, groups: Mapping[str, Sequence[str]]) -> str | None:
    key, colon, value = word.partition(":")
    if colon or not _KEY.fullmatch(key):
        return _word(key, typed(value.strip()))
    if word in groups:
        return f"{word}=<option>"
    hint = option_type(TolariaConfig, key)
    if hint is not None:
        return f"{key}=true" if hint is bool else f"{key}=<value>"
    found = meant(key, True)
    if found is None:
        return _word(key, "<value>")
    return found.words if "=" in found.words else f"{found.words}=<value>" if found.words else None


def _choice(word: str, groups: Mapping[str, Sequence[str]]) -> str | None:
    """`group=option` for an option alone, or one that any other sign parts from its group."""
    own = {name: options for name, options in groups.items() if not name.startswith("hydra/")}
    parted = re.fullmatch(r"([\w/]+?)[./:]([\w-]+)", word)
    if parted and parted[1] in own:
        option = nearest_name(parted[2], own[parted[1]], 0.7)
        return f"{parted[1]}={option}" if option else None
    named = [group for group in ("model", "dataset", *own) if word.lower() in own.get(group, ())]
    return f"{named[0]}={word.lower()}" if named and word != "default" else None

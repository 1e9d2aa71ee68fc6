"""Words of the command line without a `=`: what they most likely mean, as a word that can be pasted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esper.cli.unknown_flags import meant, typed
from esper.config import TolariaConfig
from esper.config.messages import error_message, nearest_key, nearest_name
from esper.config.serialization import option_names

_KEY = re.compile(r"[A-Za-z_][\w.-]*")
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


def split_words(lines: Sequence[str], groups: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The words that are to be read as overrides, and a sentence for each of the others.

    A key and its value that stand apart, as in `lr = 0.1`, are one mistake and not three.
    """
    rest, problems = [], []
    left = list(lines)
    while left:
        used, text = _mistake(left, groups)
        if text:
            problems.append(text)
        else:
            rest.append(left[0])
        del left[:used]
    return rest, problems


def _mistake(words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> tuple[int, str | None]:
    """How many words belong together, and what is wrong with them."""
    first = words[0].removesuffix("=")
    if "=" in first or not first or first.startswith("~"):
        return 1, None
    used, value = _value_apart(words)
    if value is None:
        return (1, None) if words[0].endswith("=") else (1, _alone(first, groups))
    word = _word(first, typed(value))
    if word is None:
        return (1, None) if words[0].endswith("=") else (1, _alone(first, groups))
    return used, error_message(first, " ".join(words[:used]), "key=value without blanks", word)


def _value_apart(words: Sequence[str]) -> tuple[int, str | None]:
    """The value of a key that stands in a later word, and how many words that makes."""
    if words[0].endswith("="):
        return (2, words[1]) if len(words) > 1 and "=" not in words[1] else (1, None)
    if len(words) > 2 and words[1] == "=" and "=" not in words[2]:
        return 3, words[2]
    if len(words) > 1 and words[1].startswith("=") and len(words[1]) > 1:
        return 2, words[1][1:]
    return (2, words[1]) if len(words) > 1 and "=" not in words[1] else (1, None)


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
        near = f"--config-dir {Path(word).parent} --config-name {Path(word).stem}"
        return error_message(word, word, "flags that name a file with a configuration", near)
    choice = _choice(word, groups)
    if choice is not None:
        return error_message(word, word, "<group>=<option>", choice)
    key, colon, value = word.partition(":")
    known = _word(key, typed(value) if colon else "<value>") if _KEY.fullmatch(key) else None
    switched_on = meant(key, True) if not colon else None
    if switched_on is not None and switched_on.words.endswith("=true"):
        known = switched_on.words
    return error_message(word, word, "key=value", known) if known else None


def _choice(word: str, groups: Mapping[str, Sequence[str]]) -> str | None:
    """`group=option` for an option alone, or one that any other sign parts from its group."""
    own = {name: options for name, options in groups.items() if not name.startswith("hydra/")}
    parted = re.fullmatch(r"([\w/]+?)[./:]([\w-]+)", word)
    if parted and parted[1] in own:
        option = nearest_name(parted[2], own[parted[1]], 0.7)
        return f"{parted[1]}={option}" if option else None
    named = [group for group in ("model", "dataset", *own) if word.lower() in own.get(group, ())]
    return f"{named[0]}={word.lower()}" if named and word != "default" else None

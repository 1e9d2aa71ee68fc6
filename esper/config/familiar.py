"""Translates an option of Lightning, Hugging Face, timm or a Hydra template into one of Esper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from esper.config import aliases
from esper.config.familiar_names import CHOICES, NOTES, OPTIONS, QUALIFIED, WORDS
from esper.config.familiar_values import Converter, as_given, plain_text
from esper.config.targets import is_dotted

Choices = Mapping[str, Sequence[str]]  # a group of configurations to the names that it offers

_OPTIONS: dict[str, tuple[str, Converter]] = {
    name: (option, convert) for option, convert, names in OPTIONS for name in names.split()
}
_JOINED = {name.replace("_", ""): name for name in _OPTIONS if "_" in name}  # `batchsize`, `batchSize`
_VALUES = {option: convert for option, convert, _ in reversed(OPTIONS) if option in aliases.SHORT_NAMES}
_NOTES = {name: note for names, note in NOTES.items() for name in names.split()}
_WORDS = {name: words for names, words in WORDS.items() for name in names.split()}
# Groups whose keys are of Esper alone: `morphogenetic.seed.lr` is not the learning rate of the host.
_OWN_GROUPS = ("morphogenetic", "services", "hydra")
# Options that a group of configurations sets together with what belongs to them.
_GROUPS = {"model.architecture": "model", "dataset.name": "dataset"}


@dataclass(frozen=True, slots=True)
class Translation:
    """Words that can be pasted in place of `key=value`, "" where there are none, and what is different."""

    words: str
    note: str = ""


def familiar_names() -> list[str]:
    """Every name that is translated."""
    return sorted({*_OPTIONS, *_NOTES} | set(QUALIFIED))


def translate(
    key: str, given: Any, valid: Sequence[str], choices: Choices | None = None
) -> Translation | None:
    """What a key that Esper does not have means in another library; None for one that is not known.

    Args:
        key: the dotted key; where it is not known as a whole, its last part decides.
        given: its value. A dictionary is translated key by key.
        valid: the dotted name of every option there is.
        choices: the groups of configurations, on the command line.

    Returns:
        The words that can be pasted; an option stands without a value where the given one does not fit.
    """
    choices = choices or {}
    if isinstance(given, Mapping):
        return _translate_all(key, given, valid, choices)
    if isinstance(given, tuple):
        return _translate_sweep(key, given, valid, choices)
    lowered = key.lower().replace("-", "_")
    if lowered.partition(".")[0] in _OWN_GROUPS:
        return None
    name = QUALIFIED.get(lowered) or lowered.rpartition(".")[2]
    name = _JOINED.get(name, name)
    if name in _OPTIONS or name in _NOTES:
        return _translate_name(name, given, valid, choices)
    return _elsewhere(key, given, valid, choices)


def familiar_value(key: str, given: Any) -> str | None:
    """The value of an option of Esper that a value from another library stands for: `gpu` is `cuda`."""
    words = _WORDS.get(key.rpartition(".")[2], {}).get(plain_text(given).lower())
    if words is None:
        words = _VALUES[key](key, given) if key in _VALUES else ""
    option, _, value = words.partition("=")
    return value if option == key and value and " " not in value else None


def translate_choice(group: str, given: str) -> Translation | None:
    """What a choice that a group does not have means, as `optimization=adamw` or `trainer=gpu`."""
    name = given.lower()
    words = CHOICES.get(f"{group}={name}")
    if words is not None:
        return Translation(words, "" if words else _NOTES["strategy"])
    for option, known in aliases.SHORT_NAMES.items():
        if option.partition(".")[0] == group and option not in _GROUPS and name in known:
            return Translation(f"{option}={name}")
    own = {chosen: option for option, chosen in _GROUPS.items()}
    return Translation(f"{group}=custom {own[group]}={given}") if group in own and is_dotted(given) else None


def _translate_name(name: str, given: Any, valid: Sequence[str], choices: Choices) -> Translation | None:
    """A name of the table; None where the group that was read has no such option."""
    option, convert = _OPTIONS.get(name, ("", None))
    words = _WORDS.get(name, {}).get(plain_text(given).lower(), "")
    if not words and convert is not None:
        words = convert(option, given)
    if not words:
        return Translation("", _NOTES[name])
    words = _place(_select(words, choices), valid, choices)
    return Translation(words, _NOTES.get(name, "")) if words else None


def _translate_all(
    key: str, given: Mapping[str, Any], valid: Sequence[str], choices: Choices
) -> Translation | None:
    """Every key of a dictionary that is known, as words one after another."""
    flat = {name: value for name, value in given.items() if not isinstance(value, Mapping | list)}
    each = [translate(f"{key}.{name}", value, valid, choices) for name, value in flat.items()]
    found = [translation for translation in each if translation is not None]
    words, notes = ([getattr(one, part) for one in found] for part in ("words", "note"))
    if not any(words):
        return None
    return Translation(
        " ".join(dict.fromkeys(filter(None, words))), "; ".join(dict.fromkeys(filter(None, notes)))
    )


def _translate_sweep(
    key: str, given: tuple[Any, ...], valid: Sequence[str], choices: Choices
) -> Translation | None:
    """The values of a sweep, where all of them are for one option."""
    found = [translate(key, value, valid, choices) for value in given]
    parts = [each.words.partition("=") for each in found if each is not None]
    options = {option for option, _, _ in parts}
    if len(parts) < len(found) or len(options) != 1:
        return None
    values = ",".join(value for _, _, value in parts)
    return Translation(f"{options.pop()}={values}" if all(value for _, _, value in parts) else options.pop())


def _elsewhere(key: str, given: Any, valid: Sequence[str], choices: Choices) -> Translation | None:
    """The one group or option that has the same name in another place, or an argument of the model."""
    parent, _, leaf = key.rpartition(".")
    if given in choices.get(f"morphogenetic/{key}", ()):
        return Translation(f"morphogenetic/{key}={given}")
    found = [name for name in valid if name.rpartition(".")[2] == leaf]
    if len(found) == 1 and "." in found[0] + key:
        return Translation(as_given(found[0], given))
    return _argument(parent, leaf, given, valid)


def _argument(parent: str, leaf: str, given: Any, valid: Sequence[str]) -> Translation | None:
    """A key that is like none of its group, as an argument of the model or the dataset."""
    arguments = f"{parent}.{parent}_params"
    own = [name.rpartition(".")[2] for name in valid if name.startswith(f"{parent}.")]
    if arguments not in valid or not leaf.isidentifier() or get_close_matches(leaf, own, n=1, cutoff=0.7):
        return None
    return Translation(as_given(f"{arguments}.{leaf}", given))


def _select(words: str, choices: Choices) -> str:
    """The choice of a group, where the command line has one of that name."""
    option, _, name = words.partition("=")
    group = _GROUPS.get(option, "")
    return f"{group}={name}" if name in choices.get(group, ()) else words


def _place(words: str, valid: Sequence[str], choices: Choices) -> str:
    """The words as they stand inside of the group that was read; "" where it has no such option."""
    option = words.lstrip("'").partition("=")[0]
    if option in choices:
        return words
    parts = option.split(".")
    for start in range(len(parts)):
        inside = ".".join(parts[start:])
        if any(inside == name or inside.startswith(f"{name}.") for name in valid):
            return words.replace(option, inside, 1)
    return ""

"""Each `key=value` of the command line against the groups and the schema, before anything is composed.

Hydra stops at the first wrong one; here all of them are found, and by name.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esper.cli.explain import explain, unknown_choice, unknown_option
from esper.cli.quoting import key_and_value, quoted, quoted_list
from esper.cli.words import split_words
from esper.config import TolariaConfig
from esper.config.familiar import familiar_value
from esper.config.messages import error_message, nearest_name
from esper.config.serialization import describe_type, enclosing_dict, option_names, option_type
from esper.config.unknown import unknown_key

Groups = Mapping[str, Sequence[str]]  # group to the options it has
# group with a target to the free dictionary that holds the target's arguments
_ARGUMENTS = {"model": "model.model_params", "dataset": "dataset.dataset_params"}


def override_problems(lines: Sequence[str], groups: Groups, parser: OverridesParser) -> list[str]:
    """A sentence for everything wrong in these overrides, taken one by one."""
    problems: list[str] = []
    for line, mistake in split_words(lines, groups):
        if mistake is not None:
            problems.append(mistake)
            continue
        try:
            [override] = parser.parse_overrides([line])
        except HydraException as error:
            problems.append(_unreadable(line, error, groups, parser))
        else:
            problems += _problems(override, groups, parser)
    return problems


def add_free_keys(lines: Sequence[str], parser: OverridesParser) -> list[str]:
    """The same overrides, those of a key inside a free dictionary with `++`: it need not be there before.

    `+model.hidden=64`, which Hydra's users write beside a `_target_`, goes to `model.model_params.hidden`.
    What such a dictionary may hold is checked where it is used.
    """
    return [_free(line, parser) for line in lines]


def without_plus(lines: Sequence[str], unchosen: Collection[str]) -> list[str]:
    """The same overrides, `+group=option` without its `+` for the groups of which nothing is chosen yet.

    Hydra takes a group that stands as null in the defaults list for one that is there, and refuses the `+`.
    """
    return [
        line[1:] if line[:1] == "+" and line[1:].partition("=")[0] in unchosen else line for line in lines
    ]


def comma_hint(override: Override, parser: OverridesParser) -> str:
    """For a text with commas that was read as several values: how to write it as one."""
    hint = option_type(TolariaConfig, override.key_or_group)
    line = key_and_value(str(override.input_line))
    if line is None or not _takes_text(hint):
        return ""
    word = quoted(*line, parser)
    return f"; one value with commas in it is {word}" if word else ""


def values_of(override: Override) -> list[Any]:
    """The values that an override gives its key: one, or those of a sweep; of an interval its ends."""
    if override.is_interval_sweep():
        interval: Any = override.value()
        return [f"{end:g}" for end in (interval.start, interval.end)]
    if override.is_sweep_override():
        return [Override._convert_value(value) for value in override.sweep_iterator()]
    return [override.value()]


def _free(line: str, parser: OverridesParser) -> str:
    try:
        [override] = parser.parse_overrides([line])
    except HydraException:
        return line
    key = override.key_or_group
    group, _, argument = key.partition(".")
    if override.is_add() or override.is_force_add():
        new = group in _ARGUMENTS and argument and option_type(TolariaConfig, key) is None
        if new and enclosing_dict(TolariaConfig, key) is None:
            return f"++{line.lstrip('+').replace(key, f'{_ARGUMENTS[group]}.{argument}', 1)}"
        return line
    in_dict = not override.is_delete() and enclosing_dict(TolariaConfig, key) is not None
    return f"++{line}" if in_dict else line


def _unreadable(line: str, error: HydraException, groups: Groups, parser: OverridesParser) -> str:
    """The sentence for a line that Hydra's grammar does not read, with one that it does."""
    found = key_and_value(line)
    if found is None:
        return explain(error)
    written, text = found
    key = written.lstrip("+")
    hint = option_type(TolariaConfig, key)
    free = enclosing_dict(TolariaConfig, key) is not None
    if key in groups:
        return unknown_choice(key, text, groups[key])
    if hint is None and not free and not key.startswith("hydra."):
        return unknown_key(key, text, list(option_names(TolariaConfig)), groups)
    word = _word(written, text, hint, parser)
    what = describe_type(hint) if hint is not None else "a value that Hydra's grammar reads"
    return error_message(key, text, f"quotes: {word}" if word else what)


def _word(key: str, text: str, hint: Any, parser: OverridesParser) -> str | None:
    """The word that gives an option of this type the text; None where no quotes would help."""
    if text.startswith("[") and list[str] in (hint, *get_args(hint)):
        return quoted_list(key, text, parser)
    return quoted(key, text, parser) if hint is None or _takes_text(hint) else None


def _takes_text(hint: Any) -> bool:
    return hint is str or (isinstance(hint, UnionType) and str in get_args(hint))


def _group_problem(key: str, given: Any, groups: Groups) -> str | None:
    """The sentence for a group of configurations that is written with dots, as if it were an option."""
    group = key.replace(".", "/")
    if "." not in key or group not in groups or isinstance(given, dict):
        return None
    option = nearest_name(str(given), groups[group]) or groups[group][0]
    return error_message(
        key, given, f"{group}=<option>, one of {', '.join(groups[group])}", f"{group}={option}"
    )


def _problems(override: Override, groups: Groups, parser: OverridesParser) -> Iterator[str]:
    key, line = override.key_or_group, str(override.input_line)
    own = not key.startswith(("hydra.", "hydra/"))
    if not key:
        yield error_message(line, line, "key=value")
    elif override.is_sweep_override() and (key == "run_dir" or not own):
        yield error_message(key, line, f"one value: this cannot be swept{comma_hint(override, parser)}")
    elif override.package is not None:
        yield error_message(f"{key}@{override.package}", line, "a group without a package", key)
    elif key in groups and not isinstance(override.value(), dict):
        yield from _choice(override, groups)
    else:
        yield from _no_choice(override, groups, parser)


def _no_choice(override: Override, groups: Groups, parser: OverridesParser) -> Iterator[str]:
    key = override.key_or_group
    misplaced = _group_problem(key, override.value(), groups)
    if "/" in key:
        dotted = key.replace("/", ".")
        near = dotted if option_type(TolariaConfig, dotted) else nearest_name(key, groups)
        yield error_message(key, override.value(), "a group of configurations", near)
    elif misplaced is not None:
        yield misplaced
    elif not key.startswith("hydra."):
        yield from _option(override, groups, parser)


def _choice(override: Override, groups: Groups) -> Iterator[str]:
    key = override.key_or_group
    if override.is_force_add() and not key.startswith("hydra/"):
        yield error_message(key, override.input_line, f"{key}=<option> without ++", key)
    names = [name for each in values_of(override) for name in (each if isinstance(each, list) else [each])]
    for name in [] if override.is_delete() else names:
        if name is None:
            yield error_message(key, None, f"one of {', '.join(groups[key])}", f"~{key}")
        elif str(name) not in groups[key]:
            yield unknown_choice(key, str(name), groups[key])


def _option(override: Override, groups: Groups, parser: OverridesParser) -> Iterator[str]:
    key, given = override.key_or_group, override.value()
    hint = option_type(TolariaConfig, key)
    if hint is None and enclosing_dict(TolariaConfig, key) is not None:
        return
    if hint is None:
        swept = tuple(values_of(override)) if override.is_sweep_override() else given
        yield unknown_key(key, swept, list(option_names(TolariaConfig)), groups)
    elif override.is_delete():
        yield error_message(key, override.input_line, "a value: an option cannot be taken away")
    elif override.is_add() and not isinstance(given, dict):
        yield error_message(
            key, override.input_line, f"{key}=<value> without +: the option is already there", key
        )
    else:
        yield from _values(override, hint, parser)


def _values(override: Override, hint: Any, parser: OverridesParser) -> Iterator[str]:
    key, values = override.key_or_group, values_of(override)
    texts = [value for value in values if isinstance(value, str)]
    if isinstance(override.value(), list | dict) and _takes_text(hint):
        yield _bracketed(override, hint, parser)
    elif list[str] in (hint, *get_args(hint)) and len(texts) == len(values):
        word = quoted_list(key, f"[{','.join(texts)}]", parser)
        yield error_message(key, ",".join(texts), describe_type(hint), word)
    else:
        for value in values:
            yield from _type_problems(key, value, hint)


def _bracketed(override: Override, hint: Any, parser: OverridesParser) -> str:
    """The sentence for a list or dictionary where a text is expected, which may have brackets in it."""
    line = key_and_value(str(override.input_line))
    word = quoted(*line, parser) if line else None
    expected = f"{describe_type(hint)}; a text with brackets is {word}" if word else describe_type(hint)
    return error_message(override.key_or_group, override.value(), expected)


def _type_problems(key: str, value: Any, hint: Any) -> Iterator[str]:
    if isinstance(value, dict) and hint == dict[str, Any]:
        return
    try:
        group, _, option = key.partition(".")
        # a group knows where it belongs, so that errors still have the whole key
        owner, inside = (_schema()[group], option) if option else (_schema(), key)
        OmegaConf.update(copy.deepcopy(owner), inside, value, merge=True)
    except OmegaConfBaseException as error:
        inner = error.full_key or key
        if inner == key:
            yield error_message(key, value, describe_type(hint), _near_value(key, value, hint))
        elif option_type(TolariaConfig, inner) is None:
            yield unknown_option(inner, _inside(value, inner.removeprefix(f"{key}.")))
        else:
            yield explain(error)


def _near_value(key: str, value: Any, hint: Any) -> str | None:
    whole = hint is int and isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else familiar_value(key, value)


@cache
def _schema() -> DictConfig:
    """The schema as a configuration, to be copied: making it anew reads the types of every option."""
    return OmegaConf.structured(TolariaConfig)


def _inside(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value

"""How a value that belongs to another library's option is written for the option of Esper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from esper.config.quoting import command_word
from esper.config.targets import is_dotted

# Option and given value to the word `option=value`; to the option alone where the value does not fit it.
Converter = Callable[[str, Any], str]

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def plain_text(given: Any) -> str:
    """A given value as it stands on the command line: `true`, `null`, `16`."""
    if given is None:
        return "null"
    return str(given).lower() if isinstance(given, bool) else str(given)


def bare(option: str, given: Any) -> str:
    """The option without a value: it is counted or named in another way."""
    return option


def as_given(option: str, given: Any) -> str:
    """The same value: both options mean the same."""
    if given is None or isinstance(given, bool | int | float):
        return f"{option}={plain_text(given)}"
    return text(option, given)


def number(option: str, given: Any) -> str:
    """A finite number of at least 0."""
    value = _float(given)
    return option if value is None or value < 0 else f"{option}={plain_text(given)}"


def count(option: str, given: Any) -> str:
    """A whole number of at least 1, also one written as `3.0`."""
    value = _float(given)
    return option if value is None or value < 1 or value != int(value) else f"{option}={int(value)}"


def natural(option: str, given: Any) -> str:
    """A whole number of at least 0."""
    return f"{option}=0" if _float(given) == 0 else count(option, given)


def share(option: str, given: Any) -> str:
    """A number of at least 0 and below 1."""
    value = _float(given)
    return option if value is None or not 0 <= value < 1 else f"{option}={plain_text(given)}"


def percentage(option: str, given: Any) -> str:
    """A share that is given in percent."""
    value = _float(given)
    return option if value is None else share(option, value / 100)


def flag(option: str, given: Any) -> str:
    """True or false."""
    text = plain_text(given).lower()
    return f"{option}=true" if text in _TRUE else f"{option}=false" if text in _FALSE else option


def inverted(option: str, given: Any) -> str:
    """False where the other library's option is true."""
    text = plain_text(given).lower()
    return f"{option}=false" if text in _TRUE else f"{option}=true" if text in _FALSE else option


def text(option: str, given: Any) -> str:
    """A name or a path."""
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        return option
    return command_word(option, str(given))


def one_of(names: Iterable[str], others: Mapping[str, str] | None = None) -> Converter:
    """One of `names`, or of the `others` that are called differently elsewhere; a dotted target stays."""
    known = {name: name for name in names} | dict(others or {})

    def convert(option: str, given: Any) -> str:
        name = plain_text(given)
        if name.lower() in known:
            return f"{option}={known[name.lower()]}"
        return f"{option}={name}" if is_dotted(name) else option

    return convert


def _float(given: Any) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        value = float(given)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None

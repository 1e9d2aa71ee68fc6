"""The quoting with which a value reaches an option through a shell and through Hydra's grammar."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from esper.config.quoting import hydra_text
from esper.config.yamlfile import escape

_KEY_AND_VALUE = re.compile(r"(\+{0,2}[A-Za-z_][\w./-]*)=(.*)", re.DOTALL)
_PLAIN_ITEM = re.compile(r"[A-Za-z_][\w./*-]*")


def key_and_value(line: str) -> tuple[str, str] | None:
    """`key=value` at its first `=`, whatever the value holds; None where what precedes it is no key."""
    found = _KEY_AND_VALUE.fullmatch(line)
    return None if found is None else (found[1], found[2])


def quoted(key: str, text: str, parser: OverridesParser) -> str | None:
    """The word for a shell that gives the option `key` this text; None where there is none.

    A leading `~` is written out as the home folder: inside of quotes nobody expands it.
    """
    wanted = os.path.expanduser(text)  # noqa: PTH111 - the other one raises where there is no such user
    return _checked(key, hydra_text(wanted), escape(wanted), parser)


def quoted_list(key: str, text: str, parser: OverridesParser) -> str | None:
    """The same for an option that is a list of texts: each that needs it is quoted."""
    items = [item.strip() for item in text.removeprefix("[").removesuffix("]").split(",")]
    shown = [item if _PLAIN_ITEM.fullmatch(item) else hydra_text(item) for item in items]
    return _checked(key, f"[{','.join(shown)}]", [escape(item) for item in items], parser)


def _checked(key: str, shown: str, wanted: Any, parser: OverridesParser) -> str | None:
    """The word for the shell, provided that Hydra's grammar reads `wanted` from it."""
    line = f"{key}={shown}"
    try:
        [override] = parser.parse_overrides([line])
        value = override.value()
    except HydraException:
        return None
    texts: Sequence[Any] = value if isinstance(value, list) else [value]
    plain = [item.text if isinstance(item, QuotedString) else item for item in texts]
    return shlex.quote(line) if plain == (wanted if isinstance(wanted, list) else [wanted]) else None

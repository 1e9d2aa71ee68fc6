"""A text as a value on the command line: quoted for Hydra's grammar, then for the shell. No Hydra."""

from __future__ import annotations

import re
import shlex

from esper.config.yamlfile import escape

_AS_IT_IS = re.compile(r"(?!(?i:null|true|false|nan|inf)\Z)(\.{0,2}/|[A-Za-z_])[\w./-]*", re.ASCII)


def hydra_text(text: str) -> str:
    """`text` as it stands between double quotes in Hydra's grammar, quotes included."""
    inside = re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), escape(text))
    return f'"{inside}"'


def command_word(key: str, text: str) -> str:
    """The word `key=text` that can be pasted into a shell; quotes only where they are needed."""
    return f"{key}={text}" if _AS_IT_IS.fullmatch(text) else shlex.quote(f"{key}={hydra_text(text)}")

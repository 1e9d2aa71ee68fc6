"""What `--help` prints; Hydra's own takes a second, because it searches its folders anew for each group."""

from __future__ import annotations

import functools
import operator
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from esper.config import TolariaConfig
from esper.config.describe import DescribedOption, describe
from esper.config.yamlfile import inline_yaml

_WIDTH = (24, 100)  # characters of a line, at least and at most
_USAGE = """\
Train a PyTorch network and grow it while it trains.

  esper-train [group=choice] [key=value] [--multirun key=value,value]

Groups (group=choice)
"""
_OPTIONS = """\
Options (key=value), with the values that the groups and this command line give them; \
"default" is that of the library
"""
_END = """\
--cfg job shows the values alone, --hydra-help Hydra's own flags.

--config-dir D --config-name F runs a configuration saved as D/F.yaml.

validate_only=true checks everything and stops; dry_run=true also runs one batch.

Exit codes: 0 done, 1 internal error, 2 configuration or input, 3 halted by an emergency, \
4 results incomplete (one could not be saved), 129, 130 and 143 ended by SIGHUP, SIGINT, SIGTERM.
"""


def help_text(groups: Mapping[str, Sequence[str]], composed: DictConfig, width: int | None = None) -> str:
    """The text of `--help`.

    Args:
        groups: each group of configurations with its choices.
        composed: the configuration whose values are shown.
        width: characters of a line; None: as the terminal has, 80 where there is none. A word that is
            longer is not broken.

    Returns:
        The groups with their choices, and each option with its value, help text, type, limits and default.
    """
    columns = shutil.get_terminal_size((80, 24)).columns if width is None else width
    columns = min(max(columns, _WIDTH[0]), _WIDTH[1])
    own = {name: choices for name, choices in sorted(groups.items()) if name.partition("/")[0] != "hydra"}
    rows = [f"  {name}: {', '.join(choices)}" for name, choices in own.items()]
    shown = [line for row in rows for line in _wrap(row, columns, 6)]
    lines = [*_paragraphs(_USAGE, columns), *shown, "", *_paragraphs(_OPTIONS, columns), ""]
    return "\n".join([*lines, *_options(composed, columns), *_paragraphs(_END, columns)])


def _options(composed: DictConfig, width: int) -> Iterator[str]:
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    # interpolations stay as they are: one that cannot be resolved is no reason to show nothing
    values: Any = OmegaConf.to_container(own, resolve=False)
    group = ""
    for row in describe(TolariaConfig()):
        if row.group != group:
            group = row.group
            yield from (group, "")
        yield from _option(row, functools.reduce(operator.getitem, row.key.split("."), values), width)
        yield ""


def _option(row: DescribedOption, value: Any, width: int) -> Iterator[str]:
    facts = [row.type, row.values, f"default {row.default}"]
    yield from _wrap(f"  {row.key}={inline_yaml(value)}", width, 6)
    yield from _wrap(f"      {row.help}", width, 6)
    yield from _wrap(f"      ({'; '.join(filter(None, facts))})", width, 6)


def _paragraphs(text: str, width: int) -> Iterator[str]:
    for line in text.splitlines():
        yield from _wrap(line, width, len(line) - len(line.lstrip())) or [""]


def _wrap(text: str, width: int, indent: int) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )

"""Writes what esper/config says of the options into conf/<group>/default.yaml and docs/configuration.md.

`.venv/bin/python scripts/config_docs.py` writes, with `--check` it only names the files that would change.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode

from esper.cli.composer import Composer, plain
from esper.cli.flags import Flags
from esper.config import TolariaConfig, aliases
from esper.config.describe import DescribedOption, describe
from esper.config.serialization import options
from esper.config.yamlfile import inline_yaml

ROOT = Path(__file__).resolve().parents[1]
CONF, DOCUMENT = ROOT / "conf", ROOT / "docs" / "configuration.md"
COMMAND = ".venv/bin/python scripts/config_docs.py"
POLICIES = "morphogenetic/policy"
# Where the defaults of the command line differ from those of the library, and why.
SHIPPED: dict[str, tuple[Any, str]] = {
    "morphogenetic.decision_interval_epochs": (0.25, "each epoch of delay costs some 0.3 points"),
    "morphogenetic.max_adaptations_per_epoch": (4, "all seeds may be planted at once"),
    "morphogenetic.seed.impact_samples": (
        2048,
        "a third of a percent in accuracy is seen, at a third of the price of 6,000",
    ),
}
INTRODUCTION = f"""\
# Configuration

Every option of `esper-train` and of `esper.TolariaConfig`. On the command line an option is set by its dotted
name (`optimization.learning_rate=0.01`), and a group of prepared values is chosen by the name of the group
(`model=mlp`); `esper-train --help` shows the same with the values that a command line gives, and
`esper-train --cfg job` these alone.

*Default* is the library's, `esper.TolariaConfig()`. *esper-train* is the value that the command composes from
`conf/` without arguments (model `convnet`, dataset `digits` and its recipe), where it differs.

This file is written by `{COMMAND}` from `esper/config`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write or compare all files; 1 where `--check` finds one that differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file differs")
    check = parser.parse_args(argv).check
    rows = describe(TolariaConfig())
    stale = [path for path, text in group_files(rows) if store(path, text, check)]
    # after the groups: it shows what they compose
    stale += [DOCUMENT] if store(DOCUMENT, document(rows), check) else []
    for path in stale:
        print(
            f"{path.relative_to(ROOT)} {f'differs from esper/config; run {COMMAND}' if check else 'written'}"
        )
    return 1 if check and stale else 0


def store(path: Path, text: str, check: bool) -> bool:
    """Whether the file differs from `text`, which is written unless it is only to be checked."""
    if path.is_file() and path.read_text() == text:
        return False
    if not check:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return True


# -- conf/ ---------------------------------------------------------------------------------------


def group_files(rows: Sequence[DescribedOption]) -> Iterator[tuple[Path, str]]:
    """Path and text of every `default.yaml`."""
    for path in sorted(CONF.glob("*/default.yaml")):
        group = path.parent.name
        lines = [f"# {summary(group)}", f"# Written by {COMMAND} from esper/config: change it there.", ""]
        opened: list[str] = []
        for row in (row for row in rows if row.key.startswith(f"{group}.")):
            inner = row.key.split(".")[1:-1]
            if inner != opened:
                opened = inner
                lines += [f"# {summary(row.key.rpartition('.')[0])}", f"{inner[-1]}:", ""]
            lines += [textwrap.indent(line, "  " * len(inner)) for line in entry(row)] + [""]
        yield path, "\n".join(lines)


def entry(row: DescribedOption) -> Iterator[str]:
    """One option of a YAML file with its comment."""
    yield from comment(row.help)
    if (CONF / row.key.replace(".", "/")).is_dir():
        yield from comment(f"({row.type}; chosen by the group {row.key.replace('.', '/')})")
        return
    value, reason = row.default, ""
    if row.key in SHIPPED:
        value, reason = inline_yaml(SHIPPED[row.key][0]), f"; the library has {row.default}"
        yield from comment(f"{value}: {SHIPPED[row.key][1]}.")
    yield from comment(f"({'; '.join(filter(None, [row.type, row.values]))}{reason})")
    yield f"{row.name}: {value}"


def comment(text: str) -> list[str]:
    """`text` as lines of a YAML comment."""
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


# -- docs/ ---------------------------------------------------------------------------------------


def document(rows: Sequence[DescribedOption]) -> str:
    """The text of docs/configuration.md."""
    composer = Composer(Flags())
    composed = composer.compose((), RunMode.RUN)
    del composed.hydra
    values = options(TolariaConfig.from_dict(plain(composed)))
    parts = [INTRODUCTION, *choices(composer.groups(()))]
    for group in dict.fromkeys(row.group for row in rows):
        parts.append(f"## {group or 'Top level'}\n\n{summary(group)}\n")
        mine = [row for row in rows if row.group == group]
        parts.append(table(mine, values))
        tables = [names for row in mine if (names := short_names(row.key))]
        parts += tables
    return "\n".join(parts)


def table(rows: Sequence[DescribedOption], values: dict[str, Any]) -> str:
    """One line for each option of a group."""
    lines = ["| option | type | default | esper-train | values | meaning |", "|---|---|---|---|---|---|"]
    for row in rows:
        value = inline_yaml(values[row.key])
        differs = value != row.default and not (CONF / row.key.replace(".", "/")).is_dir()
        given = f"`{value}`" if differs else ""
        cells = [f"`{row.name}`", row.type, f"`{row.default}`", given, code(row.values), code(row.help)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """`text` with each word that Markdown would read as markup or HTML as a code span."""

    def span(match: re.Match[str]) -> str:
        word = match[0].rstrip(".:")
        return f"`{word}`{match[0][len(word) :]}"

    return re.sub(r"[^\s,;()`]*[_*<][^\s,;()`]*", span, text)


def short_names(key: str) -> str:
    """The short names of an option and what each stands for; empty where it has none."""
    names = aliases.POLICIES if key == POLICIES.replace("/", ".") else aliases.SHORT_NAMES.get(key, {})
    shown = f"{key}._target_" if names is aliases.POLICIES else key
    lines = [f"| `{name}` | `{target}` |" for name, target in names.items()]
    return (
        "\n".join([f"Short names of `{shown}`:\n", "| name | target |", "|---|---|", *lines, ""])
        if names
        else ""
    )


def choices(groups: dict[str, list[str]]) -> Iterator[str]:
    """The groups, their choices, and what the first comment of each file says."""
    yield "## Groups\n"
    yield "| group | choice | |\n|---|---|---|"
    for group in sorted(name for name in groups if not name.startswith("hydra")):
        for choice in groups[group]:
            what = first_comment(CONF / group / f"{choice}.yaml") or f"What suits `dataset={choice}`."
            yield f"| `{group}` | `{choice}` | {what} |"
    yield "\nA policy's arguments are options of `morphogenetic.policy`. As they are shipped:\n"
    for path in sorted((CONF / POLICIES).glob("*.yaml")):
        yield f"```yaml\n# {POLICIES}={path.stem}\n{path.read_text()}```\n"


def first_comment(path: Path) -> str:
    """The first line of a YAML file's comment, without what Hydra reads."""
    lines = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith("@package")), "")


def summary(group: str) -> str:
    """The first line of the docstring of a group's dataclass."""
    owner: Any = TolariaConfig()
    for name in filter(None, group.split(".")):
        owner = getattr(owner, name)
    return (
        (inspect.getdoc(type(owner)) or "").splitlines()[0]
        if group
        else "Options that are in no group, such as `seed=1`."
    )


if __name__ == "__main__":
    sys.exit(main())

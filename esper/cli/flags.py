"""The flags of the command line: Hydra's own parser, with one sentence for what it refuses."""

from __future__ import annotations

import io
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field

from hydra._internal.utils import get_args_parser
from hydra.types import RunMode

from esper.cli.unknown_flags import joined_flags, unknown_flags
from esper.config.messages import error_message
from esper.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Flags:
    """What the flags ask for; `shows` holds a request to print something instead of running."""

    overrides: tuple[str, ...] = ()
    multirun: bool = False
    config_dir: str | None = None
    config_name: str | None = None
    shows: tuple[str, ...] = field(default=())

    @property
    def composes(self) -> bool:
        """Whether a configuration must be shown."""
        return bool(self.shows) and self.shows[0] in ("--cfg", "--help")

    @property
    def mode(self) -> RunMode:
        """How a configuration that must be shown is composed."""
        return RunMode.MULTIRUN if self.multirun else RunMode.RUN


def parse_flags(argv: Sequence[str]) -> Flags:
    """Raises `ConfigError` for a flag that is unknown, incomplete, refused or contradicts another."""
    given = _parse(get_args_parser(), _with_all(argv))
    shows = _shows(given)
    problems = [
        error_message(flag, value, expected) for flag, value, expected in _refused(given, shows) if value
    ]
    if problems:
        raise ConfigError(problems)
    return Flags(tuple(given.overrides), given.multirun, given.config_dir, given.config_name, shows)


def _parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    printed = io.StringIO()
    flags = [name for action in parser._actions for name in action.option_strings]
    if joined := joined_flags(argv, flags):
        raise ConfigError(unknown_flags(argv, flags) or joined)
    try:
        with redirect_stderr(printed):
            return parser.parse_intermixed_args(argv)
    except SystemExit:
        raise ConfigError(unknown_flags(argv, flags) or _unparsed(argv, printed.getvalue())) from None


def _with_all(argv: Sequence[str]) -> list[str]:
    """`--info` before an override means all of it; Hydra's parser would take the override for its value."""
    words = list(argv)
    for place, word in enumerate(words):
        if word in ("--info", "-i") and "=" in "".join(words[place + 1 : place + 2]):
            words.insert(place + 1, "all")
    return words


def _unparsed(argv: Sequence[str], printed: str) -> str:
    reason = printed.rpartition("error: ")[2].strip()
    named = next((word.partition("/")[0] for word in reason.split() if word.startswith("--")), "the flags")
    return error_message(named.rstrip(":"), " ".join(argv), f"what Hydra's parser takes ({reason})")


def _refused(given: Namespace, shows: Sequence[str]) -> list[tuple[str, object, str]]:
    """Flag, value and what is expected instead, for each combination that is not possible, if it is given."""
    sweeps = given.multirun and given.cfg  # of which there is one for each job
    running = "--multirun" if sweeps else "--run" if given.run else None
    alone = given.resolve and not (given.cfg or given.help)
    return [
        ("--experimental-rerun", given.experimental_rerun, "a configuration in YAML: a pickle is never read"),
        ("--config-path", given.config_path, "--config-dir, which adds a folder and keeps the shipped ones"),
        (str(running), running and shows and " ".join([running, *shows]), "one of the two flags"),
        ("--resolve", alone, "--cfg or --help beside it"),
        ("--package", None if given.cfg else given.package, "--cfg beside it"),
    ]


def _shows(given: Namespace) -> tuple[str, ...]:
    if given.help:
        return ("--help",)
    if given.cfg:
        resolve = ["--resolve"] if given.resolve else []
        return ("--cfg", given.cfg, *(["--package", given.package] if given.package else []), *resolve)
    if given.info is not None:
        return ("--info", given.info)
    flags = {"--hydra-help": given.hydra_help, "--shell-completion": given.shell_completion}
    return tuple(flag for flag, asked in flags.items() if asked)

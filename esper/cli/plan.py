"""From a command line to jobs: every one is composed before any of them starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from esper.cli.composer import Composer, plain
from esper.cli.explain import COMPOSE_ERRORS, explain
from esper.cli.flags import Flags
from esper.cli.overrides import (
    Groups,
    add_free_keys,
    comma_hint,
    override_problems,
    values_of,
    without_plus,
)
from esper.config import TolariaConfig
from esper.config.messages import error_message
from esper.config.serialization import parse
from esper.config.yamlfile import escape
from esper.errors import ConfigError

_HYDRA_PARTS = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run that was asked for, and its folder; `number` is None outside of a sweep.

    `problems` are those of names and types; `hydra` holds the parts of Hydra's node that name targets.
    """

    number: int | None
    overrides: tuple[str, ...]
    folder: Path
    config: TolariaConfig
    hydra: dict[str, Any]
    problems: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"job {self.number} ({' '.join(self.overrides)})"


@dataclass(frozen=True, slots=True)
class Plan:
    """All jobs of a command line, the folder they share, and the configuration with which Hydra runs them.

    `complete` is False where a sweeper chooses values only as it goes. `named` says that the user named
    the folder.
    """

    jobs: tuple[PlannedRun, ...]
    folder: Path
    named: bool
    composer: Composer
    master: DictConfig
    complete: bool = True

    @property
    def sweep(self) -> bool:
        return self.jobs[0].number is not None

    def collect(self, check: Callable[[PlannedRun], Sequence[str]]) -> list[str]:
        """What a check finds in all jobs: what they all share once, the rest with the job it belongs to."""
        found = [list(dict.fromkeys(check(job))) for job in self.jobs]
        shared = [text for text in found[0] if all(text in other for other in found)]
        rows = zip(self.jobs, found, strict=True)
        own = [f"{job.label}: {text}" for job, texts in rows for text in texts if text not in shared]
        return shared + own


def make_plan(flags: Flags) -> Plan:
    """Compose every job; raises `ConfigError` for overrides that cannot be read or do not fit the schema."""
    try:
        composer, flags, _ = checked_flags(flags)
        return _compose(composer, flags)
    except COMPOSE_ERRORS as error:
        raise ConfigError(explain(error)) from error


def compose_shown(flags: Flags) -> tuple[Groups, DictConfig]:
    """The groups there are and the configuration that must be shown; raises `ConfigError`."""
    try:
        composer, flags, groups = checked_flags(flags)
        return groups, composer.compose(flags.overrides, flags.mode)
    except COMPOSE_ERRORS as error:
        raise ConfigError(explain(error)) from error


def checked_flags(flags: Flags) -> tuple[Composer, Flags, Groups]:
    """What composes these flags, the flags with overrides as Hydra takes them, and the groups there are.

    Raises:
        ConfigError: An override cannot be read or does not fit the schema.
    """
    composer = Composer(flags)
    lines = add_free_keys(flags.overrides, composer.parser)
    flags = replace(flags, overrides=tuple(without_plus(lines, composer.unchosen(lines))))
    groups = composer.groups(flags.overrides)
    _check_overrides(composer, flags.overrides, groups)
    return composer, flags, groups


def _check_overrides(composer: Composer, lines: Sequence[str], groups: Groups) -> None:
    found = override_problems(lines, groups, composer.parser)
    if found:
        raise ConfigError(found)


def _compose(composer: Composer, flags: Flags) -> Plan:
    parsed = composer.parser.parse_overrides(list(flags.overrides))
    master, sweep = _master(composer, flags, [each for each in parsed if each.is_sweep_override()])
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    asked = any(each.key_or_group == key for each in parsed)
    folder = _folder(master, key, asked)
    _pin(master, key, folder)
    named = asked or OmegaConf.select(master, "run_dir") is not None
    if not sweep:
        return Plan((_job(master, None, flags.overrides, folder),), folder, named, composer, master)
    jobs, complete = _sweep_jobs(composer, master, folder)
    return Plan(jobs, folder, named, composer, master, complete)


def _master(composer: Composer, flags: Flags, swept: Sequence[Override]) -> tuple[DictConfig, bool]:
    """The configuration that all jobs start from, and whether there are jobs of a sweep."""
    master = composer.compose(flags.overrides, RunMode.MULTIRUN if flags.multirun or swept else RunMode.RUN)
    sweep = flags.multirun or master.hydra.mode == RunMode.MULTIRUN
    mode = RunMode.MULTIRUN if sweep else RunMode.RUN
    if master.hydra.mode != mode:
        master.hydra.mode = mode
        master.hydra.overrides.hydra.append(f"hydra.mode={mode.name}")
    if swept and not sweep:
        expected = "one value, or --multirun beside it"
        raise ConfigError(
            [
                error_message(
                    each.key_or_group, each.input_line, expected + comma_hint(each, composer.parser)
                )
                for each in swept
            ]
        )
    return master, sweep


def _folder(master: DictConfig, key: str, asked: bool) -> Path:
    """`run_dir` where it is given, else Hydra's folder; where both are asked for they have to agree."""
    hydra_folder, own = str(OmegaConf.select(master, key)), OmegaConf.select(master, "run_dir")
    if own is None:
        return Path(hydra_folder)
    if not own.strip():
        raise ConfigError(error_message("run_dir", own, "a folder, or null for one of its own"))
    if asked and Path(own) != Path(hydra_folder):
        raise ConfigError(
            error_message("run_dir", own, f"the same folder as {key}, which is {hydra_folder!r}")
        )
    return Path(own)


def _pin(master: DictConfig, key: str, folder: Path) -> None:
    """Hold Hydra to the folder which the checks have seen, whatever time it is."""
    text = escape(str(folder))
    OmegaConf.update(master, key, text)
    master.hydra.overrides.hydra.append(f"{key}={QuotedString(text, Quote.single).with_quotes()}")


def _job_lines(composer: Composer, master: DictConfig) -> tuple[list[list[str]], bool]:
    """The overrides of every job of a sweep, and whether those are all.

    For a sweeper that chooses as it goes: each value it may choose, tried beside the first of the others.
    """
    params = plain(master.hydra.sweeper.get("params") or OmegaConf.create({}))
    lines = [f"{key}={value}" for key, value in params.items()]
    _check_overrides(composer, lines, composer.groups(()))
    # as texts: an interpolation inside an override belongs to the job, not to this list of them
    task = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    parsed = composer.parser.parse_overrides([*lines, *map(str, task or ())])
    if master.hydra.sweeper._target_.endswith(f".{BasicSweeper.__name__}"):
        return list(BasicSweeper.split_arguments(parsed, None)[0]), True
    rows: list[list[str]] = [list(_lines_of(override)) for override in parsed]
    first = [row[0] for row in rows]
    others = [[*first[:n], line, *first[n + 1 :]] for n, row in enumerate(rows) for line in row[1:]]
    return [first, *others], False


def _lines_of(override: Override) -> Iterator[str]:
    key = override.get_key_element()
    if override.is_discrete_sweep():
        yield from (f"{key}={value}" for value in override.sweep_string_iterator())
    elif override.is_sweep_override():
        yield from (f"{key}={value}" for value in values_of(override))
    else:
        yield f"{key}={override.get_value_element_as_str()}"


def _sweep_jobs(composer: Composer, master: DictConfig, folder: Path) -> tuple[tuple[PlannedRun, ...], bool]:
    lines, complete = _job_lines(composer, master)
    return tuple(_sweep_job(composer, master, n, line, folder) for n, line in enumerate(lines)), complete


def _sweep_job(
    composer: Composer, master: DictConfig, number: int, line: list[str], folder: Path
) -> PlannedRun:
    try:
        composed = composer.compose_job(master, line)
    except ConfigError as error:
        return PlannedRun(number, tuple(line), folder, TolariaConfig(), {}, tuple(error.problems))
    with read_write(composed.hydra), open_dict(composed.hydra):
        composed.hydra.job.id = composed.hydra.job.num = number
    subfolder = str(OmegaConf.select(composed, "hydra.sweep.subdir"))
    return _job(composed, number, tuple(line), folder / subfolder)


def _job(composed: DictConfig, number: int | None, overrides: tuple[str, ...], folder: Path) -> PlannedRun:
    with read_write(composed.hydra), open_dict(composed.hydra):
        composed.hydra.runtime.output_dir = str(folder.absolute())
    # interpolations of the form ${hydra:...} read Hydra's own node from here
    HydraConfig.instance().set_config(composed)
    options = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        hydra = {part: plain(composed.hydra[part]) for part in _HYDRA_PARTS if composed.hydra[part]}
        config, problems = parse(TolariaConfig, plain(options))
    except COMPOSE_ERRORS as error:
        return PlannedRun(number, overrides, folder, TolariaConfig(), {}, (explain(error),))
    return PlannedRun(number, overrides, folder, config, hydra, tuple(problems))

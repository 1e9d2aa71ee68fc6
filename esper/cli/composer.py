"""Hydra's composition, without its side effects: nothing is run, logged or made."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime, setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import esper
from esper.cli.explain import explain
from esper.cli.flags import Flags
from esper.config import TolariaConfig
from esper.config.messages import error_message, nearest_name
from esper.errors import ConfigError

HYDRA_VERSION_BASE = "1.3"
CONFIG_NAME = "config"
JOB_NAME = "train"

# Jobs of a sweep whose composed configuration stays in memory, about 1 MB each.
KEPT_JOBS = 64

_FROM_FILE = "esper_from_file"
_SCHEMA = "esper_schema"
# The defaults list of a file that holds only options: what conf/config.yaml asks of Hydra, and every group
# empty but after the file, so that one chosen on the command line wins.
_GROUPS = (
    "model",
    "dataset",
    "optimization",
    "morphogenetic",
    "morphogenetic/policy",
    "checkpoint",
    "logging",
    "trainer",
    "services",
    "callbacks",
    "recipe",
    "experiment",
    "debug",
)
_FILE_DEFAULTS = [
    _SCHEMA,
    "_self_",
    *({group: None} for group in _GROUPS),
    {"override hydra/output": "esper"},
    {"override hydra/hydra_logging": "none"},
    {"override hydra/job_logging": "none"},
]


@cache
def _store_schema() -> None:
    ConfigStore.instance().store(name=_SCHEMA, node=TolariaConfig)


def find_conf() -> Path:
    """The folder of shipped configurations: inside the package where it is installed, else beside it."""
    package = Path(esper.__file__).parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    raise ConfigError(
        f"conf: {CONFIG_NAME}.yaml is neither in {package / 'conf'} nor in {package.parent / 'conf'}"
    )


def plain(node: DictConfig) -> dict[str, Any]:
    """A configuration as plain data, its interpolations resolved."""
    data = OmegaConf.to_container(node, resolve=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


class _Loader(ConfigLoaderImpl):
    """Hydra's loader; it returns what was composed for the checks instead of composing it again."""

    kept: DictConfig | None = None

    def __init__(self, path: ConfigSearchPath) -> None:
        super().__init__(path)
        self._jobs: dict[tuple[str, ...], DictConfig] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        kept, self.kept = self.kept, None
        if kept is not None:
            return kept
        return super().load_configuration(
            config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        )

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        key = tuple(sweep_overrides)
        if key in self._jobs:
            return copy.deepcopy(self._jobs[key])
        composed = super().load_sweep_config(master_config, sweep_overrides)
        if len(self._jobs) < KEPT_JOBS:
            self._jobs[key] = copy.deepcopy(composed)
        return composed


class Composer:
    """Composes what a command line asks for; `config_name` is the primary config it starts from."""

    def __init__(self, flags: Flags) -> None:
        version.setbase(HYDRA_VERSION_BASE)
        setup_globals()
        JobRuntime.instance().set("name", JOB_NAME)
        _store_schema()
        path = create_config_search_path(str(find_conf()))
        if flags.config_dir is not None:
            folder = Path(flags.config_dir).absolute()
            if not folder.is_dir():
                raise ConfigError(error_message("--config-dir", flags.config_dir, "a folder that exists"))
            path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
        self.loader = _Loader(path)
        self.config_name = self._primary(flags)
        self.parser = OverridesParser.create(config_loader=self.loader)

    def compose(self, overrides: Sequence[str], mode: RunMode) -> DictConfig:
        """The configuration with Hydra's own node; raises `ConfigError` where it cannot be composed."""
        try:
            return self.loader.load_configuration(self.config_name, list(overrides), run_mode=mode)
        except Exception as error:  # whatever Hydra stumbles over here, asserts included, is the input
            raise ConfigError(explain(error)) from error

    def compose_job(self, master: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job of a sweep; raises `ConfigError`."""
        try:
            return self.loader.load_sweep_config(master, list(overrides))
        except Exception as error:
            raise ConfigError(explain(error)) from error

    def groups(self, overrides: Sequence[str]) -> dict[str, list[str]]:
        """Every group and the options it has, those of a further search path included."""
        extra = [line for line in overrides if line.lstrip("+").startswith("hydra.searchpath=")]
        _, repository = self.loader._parse_overrides_and_create_caching_repo(self.config_name, extra)
        return dict(_groups(repository, ""))

    def unchosen(self, overrides: Sequence[str]) -> list[str]:
        """The groups in the defaults list of which nothing is chosen; looked for where a group is added."""
        if not any(line.startswith("+") and "." not in line.partition("=")[0] for line in overrides):
            return []
        choices = self.compose((), RunMode.RUN).hydra.runtime.choices
        return [str(group) for group, name in choices.items() if name is None]

    def _primary(self, flags: Flags) -> str:
        if flags.config_name is None:
            return CONFIG_NAME
        name = flags.config_name.removesuffix(".yaml")
        file = Path(flags.config_dir or ".") / f"{name}.yaml"
        if flags.config_dir is not None and file.is_file():
            # stored under a name of its own: a file called config.yaml would be hidden by the shipped one
            ConfigStore.instance().store(name=_FROM_FILE, node=_load(file))
            return _FROM_FILE
        known = [
            p.stem for p in (find_conf(), Path(flags.config_dir or ".")) for p in sorted(p.glob("*.yaml"))
        ]
        if name not in known:
            raise ConfigError(
                error_message("--config-name", name, f"one of {', '.join(known)}", nearest_name(name, known))
            )
        return name


def _groups(repository: IConfigRepository, parent: str) -> Iterator[tuple[str, list[str]]]:
    for name in repository.get_group_options(parent, ObjectType.GROUP):
        group = f"{parent}/{name}" if parent else name
        options = repository.get_group_options(group, ObjectType.CONFIG)
        if options:
            yield group, options
        yield from _groups(repository, group)


def _load(file: Path) -> DictConfig:
    """A primary configuration from a file; one that only holds options gets the defaults list it needs."""
    try:
        node: Any = OmegaConf.load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{file}: cannot be read as a configuration: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{file}: given a YAML list, expected a dictionary of options")
    if "defaults" in node:
        return node
    return OmegaConf.create({"defaults": _FILE_DEFAULTS, **{str(key): node._get_node(key) for key in node}})

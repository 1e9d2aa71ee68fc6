"""What is printed instead of a run: `--cfg`, `--info`, `--hydra-help` and `--shell-completion`.

Hydra's own printers are called on the composer that runs use, because they need what it registers: the
schema, and the file that `--config-name` names.
"""

from __future__ import annotations

import io
import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import Container, DictConfig, OmegaConf

from esper.cli.completion import shell_completion
from esper.cli.composer import JOB_NAME, Composer
from esper.cli.explain import COMPOSE_ERRORS, explain
from esper.cli.flags import Flags
from esper.cli.plan import checked_flags
from esper.config.messages import error_message, nearest_name
from esper.errors import ConfigError


def shown_text(flags: Flags) -> str:
    """The text that the flags ask for.

    Raises:
        ConfigError: for overrides that do not fit the schema, and a package that does not exist.
    """
    if flags.shows[0] == "--shell-completion":
        return shell_completion(flags.overrides)
    composer, flags, _ = checked_flags(flags)
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), _root_logger_kept():
            _print(flags, composer)
    except COMPOSE_ERRORS as error:
        raise ConfigError(explain(error)) from error
    return printed.getvalue().rstrip("\n")


def _print(flags: Flags, composer: Composer) -> None:
    hydra, overrides = Hydra(JOB_NAME, composer.loader), list(flags.overrides)
    what = flags.shows[0]
    if what == "--cfg":
        asked = get_args_parser().parse_args(list(flags.shows))
        _print_configuration(hydra, composer.compose(overrides, flags.mode), asked)
    elif what == "--info":
        hydra.show_info(flags.shows[1], composer.config_name, overrides, flags.mode)
    else:
        # Hydra composes its own node alone here, without a primary configuration
        own = [line for line in overrides if line.lstrip("+~").startswith("hydra")]
        hydra.hydra_help(None, get_args_parser(), Namespace(overrides=own))


def _print_configuration(hydra: Hydra, composed: DictConfig, asked: Namespace) -> None:
    """As `Hydra.show_cfg`, which takes null for a package that does not exist."""
    HydraConfig.instance().set_config(composed)
    OmegaConf.set_readonly(composed.hydra, None)
    shown = hydra.get_sanitized_cfg(composed, asked.cfg)
    package = None if asked.package == "_global_" else asked.package
    node: Any = shown if package is None else _package(shown, package)
    if not isinstance(node, Container):
        print("null" if node is None else str(node).lower() if isinstance(node, bool) else node)
        return
    if package is not None:
        print(f"# @package {package}")
    if asked.resolve:
        OmegaConf.resolve(node)
    print(OmegaConf.to_yaml(node), end="")


def _package(shown: DictConfig, package: str) -> Any:
    parent, _, leaf = package.rpartition(".")
    above = OmegaConf.select(shown, parent) if parent else shown
    if not isinstance(above, DictConfig) or leaf not in above:
        near = nearest_name(package, [*_names(shown)])
        raise ConfigError(error_message("--package", package, "a group or an option", near))
    return OmegaConf.select(shown, package)


def _names(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in node.items_ex(resolve=False):
        yield f"{prefix}{key!s}"
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            yield from _names(value, f"{prefix}{key!s}.")


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Hydra prints through the root logger, and leaves its handler there."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)

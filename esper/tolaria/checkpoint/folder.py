"""The checkpoint folder of a run: its path, and why it cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from esper.errors import CheckpointError
from esper.utils.files import nearest_existing
from esper.utils.manifest import read_bounded

CONFIG_FILE = "config.yaml"  # in the folder of a run
DEFAULT_FOLDER = "checkpoints"

_CONFIG_LIMIT_BYTES = 64 << 10  # about ten times the default file; the YAML parser reads 100 KB a second


def checkpoint_folder(run_dir: Path) -> Path:
    """The checkpoint folder of a run, which need not exist yet."""
    return run_dir / (_configured(run_dir / CONFIG_FILE) or DEFAULT_FOLDER)


def is_same_folder(one: Path, other: Path) -> bool:
    """Whether two paths are the same existing folder, through links and mounts."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def why_missing(folder: Path) -> str:
    """The reason why the folder does not exist, as a clause; empty if it exists."""
    try:
        if folder.is_dir():
            return ""
        return _blocked(folder) or f"{folder} does not exist"
    except OSError as error:
        return f"{folder} cannot be accessed: {error.strerror}"


def why_unwritable(folder: Path) -> str:
    """The reason why the folder cannot be written to or created, as a clause; empty if it can."""
    try:
        if blocked := _blocked(folder):
            return blocked
        above = nearest_existing(folder.absolute())
        return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} cannot be written to"
    except OSError as error:
        return f"{folder} cannot be accessed: {error.strerror}"


def _blocked(folder: Path) -> str:
    """The clause for a part of the path that is a file or a broken link; empty if there is none."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {path.readlink()}, which is not there: is its disk mounted?"
        if path.exists():
            return "" if path.is_dir() else f"{path} is a file"
    return ""


def _configured(file: Path) -> str | None:
    """`checkpoint_dir` from the configuration of a run, a file whose content is not trusted."""
    try:
        # nodes only: constructing values could expand a small file (aliases) until memory is exhausted
        root = yaml.compose(read_bounded(file, _CONFIG_LIMIT_BYTES), Loader=yaml.SafeLoader)
    except (CheckpointError, yaml.YAMLError, RecursionError, UnicodeDecodeError):
        return None
    found = _entry(_entry(root, "checkpoint"), "checkpoint_dir")
    usable = isinstance(found, yaml.ScalarNode) and found.value and "\0" not in found.value
    return str(found.value) if usable else None


def _entry(node: Any, key: str) -> Any:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)

"""Paths in the configuration that the system cannot look up, or at which something of another kind is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from esper.config import TolariaConfig
from esper.config.messages import error_message
from esper.utils.files import nearest_existing

# what reads no files
_WITHOUT_FILES = ("digits", "synthetic")


def path_problems(config: TolariaConfig) -> list[str]:
    """A sentence for each option whose path is a loop of links, too long, not accessible, or taken."""
    named = (_read(config), _written(config))
    return [
        error_message(key, given, f"a path that can be opened ({reason})")
        for key, given, reason in (row for rows in named for row in rows)
        if reason
    ]


def unusable(path: Path) -> str:
    """Why the system cannot look up a path; empty for one that is there or may be made."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)  # a null byte
    return ""


def why_no_folder(path: Path) -> str:
    """Why there can be no folder at a path; empty where there is one or one may be made."""
    return unusable(path) or _taken(path)


def _read(config: TolariaConfig) -> Iterator[tuple[str, str, str]]:
    """Each option with a path outside of the run folder, what was given, and why it is unusable."""
    if config.run_dir is not None:
        yield "run_dir", config.run_dir, why_no_folder(Path(config.run_dir))
    if config.dataset.name not in _WITHOUT_FILES:
        yield "dataset.data_root", config.dataset.data_root, unusable(Path(config.dataset.data_root))
    if isinstance(config.model.pretrained, str):
        yield "model.pretrained", config.model.pretrained, unusable(Path(config.model.pretrained))


def _written(config: TolariaConfig) -> Iterator[tuple[str, str, str]]:
    """The same for what is written, relative to the run folder."""
    run_dir = Path(config.run_dir or os.curdir)
    if why_no_folder(run_dir):
        return  # all of them lie in it: one sentence is enough
    folders = {
        "checkpoint.checkpoint_dir": config.checkpoint.checkpoint_dir,
        "logging.tensorboard_log_dir": config.logging.tensorboard_log_dir,
        "trainer.profiler_dir": config.trainer.profiler_dir,
    }
    files = {
        "checkpoint.model_save_path": config.checkpoint.model_save_path,
        "logging.log_file": config.logging.log_file,
        "logging.metrics_file": config.logging.metrics_file,
    }
    for key, given in folders.items():
        if given is not None:
            path = run_dir / given
            yield key, given, why_no_folder(path)
    for key, given in files.items():
        if given is not None:
            path = run_dir / given
            yield key, given, unusable(path) or _why_no_file(path, replaced=key != "logging.log_file")


def _why_no_file(path: Path, *, replaced: bool) -> str:
    """Why there can be no file at a path; `replaced`: it would be a new one, also in place of a device."""
    if path.is_dir():
        return "it is a folder"
    if replaced and path.exists() and not path.is_file():
        return "it is a device or a pipe, which the file would replace"
    return _taken(path.parent)


def _taken(folder: Path) -> str:
    """Why a folder cannot be made there: a file is in its place, or in that of one above it."""
    above = nearest_existing(folder)
    return "" if above.is_dir() else f"{above} is a file"

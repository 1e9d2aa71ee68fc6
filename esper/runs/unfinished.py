"""The run that is most likely meant by a resume that names no folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.config import TolariaConfig
from esper.config.quoting import command_word
from esper.errors import ConfigError
from esper.leyline import FINISHED_BY
from esper.utils.bounded_read import read_object
from esper.utils.lock import live_holder

# Where runs lie below `outputs`: one of its own, and a job of a sweep.
_PATTERNS = ("*/*/config.yaml", "multirun/*/*/*/config.yaml")
# Reading a configuration takes some 20 ms.
_MOST_READ = 100


def newest_unfinished(outputs: Path, config_hash: str) -> Path | None:
    """The newest run folder below `outputs` with this config hash that neither runs nor is finished."""
    files = [path for pattern in _PATTERNS for path in outputs.glob(pattern)]
    newest = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
    found = (path.parent for path in newest[:_MOST_READ] if _unfinished(path, config_hash))
    return next(found, None)


def is_finished(run_dir: Path) -> bool:
    """Whether the run in the folder came to its own end, as its summary says, and all it owes is there."""
    try:
        summary = read_object(run_dir / "summary.json")
    except (OSError, ValueError):
        return False
    return summary.get("stopped_by") in FINISHED_BY and not what_is_owed(run_dir, summary)


def what_is_owed(run_dir: Path, summary: Mapping[str, Any]) -> list[str]:
    """A sentence for each result of an ended run that was not saved, or is not in its folder any more.

    What the run was asked for is read from its own config.yaml; without that only its summary counts.
    """
    unsaved = summary.get("unsaved", [])
    owed = [str(sentence) for sentence in unsaved] if isinstance(unsaved, list) else [str(unsaved)]
    config = own_config(run_dir)
    if config is None or config.mode != "train":
        return owed
    c = config.checkpoint
    model, epochs = run_dir / c.model_save_path, summary.get("epochs_run")
    if c.save_final_model and not model.is_file():
        owed.append(f"the final model is missing: {model}")
    if c.save_checkpoints and isinstance(epochs, int):
        last = run_dir / c.checkpoint_dir / f"epoch-{epochs:04d}"
        owed += [] if last.is_dir() else [f"the last checkpoint is missing: {last}"]
    return owed


def own_config(run_dir: Path) -> TolariaConfig | None:
    """The configuration that the run in a folder was started with; None where it cannot be read."""
    try:
        return TolariaConfig.from_yaml(run_dir / "config.yaml")
    except (ConfigError, OSError):
        return None


def which_run(outputs: Path, config: TolariaConfig) -> str:
    """What is expected where `auto` is given without a folder, with the run that it may mean."""
    found = newest_unfinished(outputs, config.hash())
    if found is None:
        return "run_dir=<folder of the run to go on with> beside it, or that folder in place of auto"
    word = command_word("run_dir", str(found))
    return f"run_dir=<folder> beside it; the newest unfinished run of this configuration is {word}"


def _unfinished(file: Path, config_hash: str) -> bool:
    if is_finished(file.parent) or live_holder(file.parent) is not None:
        return False
    try:
        return TolariaConfig.from_yaml(file).hash() == config_hash
    except ConfigError:
        return False

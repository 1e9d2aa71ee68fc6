"""The run that somebody most likely means who asks to go on and does not say with which."""

from __future__ import annotations

from pathlib import Path

from esper.config import TolariaConfig
from esper.core.lock import live_holder
from esper.core.reading import read_object
from esper.errors import ConfigError
from esper.leyline import FINISHED_BY

# Where runs lie below `outputs`: one of its own, and a job of a sweep (spec C8).
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
    """Whether the run in the folder came to its own end, as its summary says."""
    try:
        return read_object(run_dir / "summary.json").get("stopped_by") in FINISHED_BY
    except (OSError, ValueError):
        return False


def which_run(outputs: Path, config: TolariaConfig) -> str:
    """What is expected where `auto` is given without a folder, with the run that it may mean."""
    found = newest_unfinished(outputs, config.hash())
    if found is None:
        return "run_dir=<folder of the run to go on with> beside it, or that folder in place of auto"
    return f"run_dir=<folder> beside it; the newest unfinished run of this configuration is run_dir={found}"


def _unfinished(file: Path, config_hash: str) -> bool:
    if is_finished(file.parent) or live_holder(file.parent) is not None:
        return False
    try:
        return TolariaConfig.from_yaml(file).hash() == config_hash
    except ConfigError:
        return False

"""Whether the checkpoint that is read is older than what its run has reached, by the run's own records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper.loggers.jsonl_reader import METRICS_FILE
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.checkpoint.format import is_checkpoint
from esper.utils.bounded_read import read_object, read_regular

_TAIL_BYTES = 1 << 20


def why_behind(named: Path, checkpoint: Checkpoint) -> str:
    """Say that the newest good checkpoint of a run is of an earlier epoch than its records; empty where not.

    `named` is what the reader was given: the folder of a run or of its checkpoints. Of a checkpoint that is
    named itself there is no message.
    """
    if is_checkpoint(named):
        return ""
    epoch = checkpoint.state["run"]["progress"]["epoch"]
    reached = max((_reached(folder) for folder in (named, named.absolute().parent)), default=0)
    if reached <= epoch:
        return ""
    return (
        f"{checkpoint.path} is of epoch {epoch}, but the run reached epoch {reached}: "
        "its later state was not saved, or not yet"
    )


def _reached(run_dir: Path) -> int:
    """The last epoch in a run's metrics or summary; 0 where there are none."""
    return max([0, *_epochs(run_dir)])


def _epochs(run_dir: Path) -> Iterator[int]:
    with suppress(OSError, ValueError):
        yield _whole(read_object(run_dir / "summary.json").get("epochs_run"))
    try:
        lines = read_regular(run_dir / METRICS_FILE, _TAIL_BYTES, tail=True).splitlines()
    except (OSError, ValueError):
        return
    for line in lines[-3:]:  # the last may be torn
        try:
            yield _whole(json.loads(line)["epoch"])
        except (ValueError, TypeError, KeyError):
            continue


def _whole(value: Any) -> int:
    return value if type(value) is int else 0

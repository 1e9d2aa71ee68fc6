"""Reading the JSON lines that a run has written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esper.errors import RecordError
from esper.leyline import EventName

METRICS_FILE = "metrics.jsonl"
STEPS_FILE = "steps.jsonl"
EVENTS_FILE = "events.jsonl"


def read_jsonl(path: Path, *, skip_damaged: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the objects of a `.jsonl` file, nothing where the file is missing.

    A last line without its end is one that a killed run was writing: it is left out. Any other line that
    is not an object raises `RecordError` with its number, or is left out with `skip_damaged`.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                continue
            try:
                yield _parse(line, path, number)
            except RecordError:
                if not skip_damaged:
                    raise


def read_stage_changes(run_dir: Path) -> list[dict[str, Any]]:
    """Return a run's seed_stage events, oldest first: step, epoch, layer, seed, blueprint, from, to, ..."""
    events = read_jsonl(run_dir / EVENTS_FILE, skip_damaged=True)
    moves = (event for event in events if event.get("name") == EventName.SEED_STAGE)
    return [{"step": move["step"], "epoch": move["epoch"], **move["data"]} for move in moves]


def read_param_counts(run_dir: Path) -> list[tuple[int, int]]:
    """Return a run's parameter counts as (step, parameters), oldest first, from its events."""
    changes = []
    for event in read_jsonl(run_dir / EVENTS_FILE, skip_damaged=True):
        if event.get("name") == EventName.RUN_STARTED:
            changes.append((event["step"], event["data"].get("params_now")))
        elif event.get("name") == EventName.TOPOLOGY_CHANGED:
            changes.append((event["step"], event["data"].get("params")))
    return [(step, count) for step, count in changes if count is not None]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}, line {number}: a {type(value).__name__}; each line should be an object")
    return value

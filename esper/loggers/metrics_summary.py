"""The two summaries of a run: summary.json, and the extremes of its metrics (`metrics_file`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.loggers.base import Json
from esper.loggers.json_encoding import to_strict_json
from esper.loggers.jsonl_reader import METRICS_FILE, read_jsonl
from esper.utils.files import write_json_atomic


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary` as strict JSON; a reader sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, to_strict_json(summary))


def summarise_metrics(run_dir: Path) -> dict[str, Json]:
    """Return, for each number in metrics.jsonl, its first, last, lowest and highest value and their epochs.

    `{"epochs": lines read, "metrics": {name: {"first", "last", "min", "min_epoch", "max", "max_epoch"}}}`
    """
    records = list(read_jsonl(run_dir / METRICS_FILE, skip_damaged=True))
    names = dict.fromkeys(name for record in records for name in record if name != "epoch")
    metrics: dict[str, Json] = {name: extremes for name in names if (extremes := _extremes(records, name))}
    return {"epochs": len(records), "metrics": metrics}


def _extremes(records: list[dict[str, Any]], name: str) -> dict[str, Json]:
    points = [(record.get(name), record.get("epoch")) for record in records]
    numbers = [(value, epoch) for value, epoch in points if isinstance(value, int | float)]
    if not numbers:
        return {}
    low = min(numbers, key=lambda point: point[0])
    high = max(numbers, key=lambda point: point[0])
    return {
        "first": numbers[0][0],
        "last": numbers[-1][0],
        "min": low[0],
        "min_epoch": low[1],
        "max": high[0],
        "max_epoch": high[1],
    }

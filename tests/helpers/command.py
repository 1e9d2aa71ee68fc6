"""Runs the real command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def esper_train(*arguments: str, cwd: Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """`esper-train` with these arguments, started in `cwd`; one thread, warnings are errors."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "esper.train", *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without what depends on the clock."""
    from esper.leyline import CLOCK_METRICS

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK_METRICS} for line in lines]


def events_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """Data of the events of one name."""
    lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [line["data"] for line in lines if line["name"] == name]

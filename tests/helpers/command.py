"""Runs the real command in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from faults.harness.processes import ChildProcess
from helpers import forkserver

Done = subprocess.CompletedProcess[str]


def esper_train(*arguments: str, cwd: Path, timeout_s: float = 240, **options: Any) -> Done:
    """`esper-train` with these arguments, run in `cwd` to its end; `options` as `forkserver.start`."""
    return _done(forkserver.start(*arguments, cwd=cwd, **options), arguments, timeout_s)


def esper_ctl(*arguments: str, timeout_s: float = 120) -> Done:
    """The same for `esper-ctl`, in a folder without anything of a run."""
    return _done(forkserver.start(*arguments, call=forkserver.CTL), arguments, timeout_s)


def python_script(file: Path, *, cwd: Path, timeout_s: float = 120) -> Done:
    """`python <file>`, run in `cwd` to its end, without the seconds of importing."""
    return _done(forkserver.start(str(file), cwd=cwd, call=forkserver.SCRIPT), (str(file),), timeout_s)


def fresh_esper_train(*arguments: str, cwd: Path, timeout_s: float = 240) -> Done:
    """`python -m esper.train` in an interpreter of its own, which imports for some four seconds.

    For what a fork of a process that has imported everything does not show: the imports themselves.
    """
    return subprocess.run(
        [sys.executable, "-m", "esper.train", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def _done(process: ChildProcess, arguments: tuple[str, ...], timeout_s: float) -> Done:
    ended = process.wait(timeout_s)
    return subprocess.CompletedProcess(arguments, ended.code, ended.out, ended.err)


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

"""Restores metrics.jsonl of a resumed run from the copy in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.loggers.jsonl_reader import METRICS_FILE
from esper.loggers.metrics_copy import EPOCHS, MetricsCopy
from esper.utils.files import names_aside, write_bytes_atomic


def restore_metrics(run_dir: Path, saved: Mapping[str, Any]) -> str:
    """Restore metrics.jsonl where it is missing, too short or other than it was; returns what was done.

    Lines after those that were saved are left alone here. A file that has to be replaced is first copied to
    `metrics.jsonl.before-1`, or to the first number that is free. Raises `OSError`.

    Args:
        run_dir: the folder of the run.
        saved: the state of its files when it was saved. One without a copy of the epochs, or with one that is
            not complete (see `MetricsCopy`), restores nothing.

    Returns:
        A sentence; empty where nothing had to be done.
    """
    path, length = run_dir / METRICS_FILE, saved.get(METRICS_FILE)
    copy = MetricsCopy.from_json(saved.get(EPOCHS))
    if copy is None or not isinstance(length, int) or len(copy.content) < length:
        return ""
    expected = copy.content[:length]
    found = path.read_bytes() if path.exists() else None
    if expected == b"" or (found is not None and found.startswith(expected)):
        return ""
    kept = f", the file as it was found is {_keep(path, found)}" if found else ""
    write_bytes_atomic(path, expected)
    return f"{_difference(found, expected)}; its epochs are restored from the checkpoint{kept}"


def _difference(found: bytes | None, expected: bytes) -> str:
    if found is None:
        return f"{METRICS_FILE} was missing"
    if expected.startswith(found):
        return f"{METRICS_FILE} had {len(found)} of {len(expected)} bytes"
    pairs = zip(found.split(b"\n"), expected.split(b"\n"), strict=False)
    line = next((number for number, (a, b) in enumerate(pairs, start=1) if a != b), 1)
    return f"{METRICS_FILE} was not what the run had written, first in line {line}"


def _keep(path: Path, content: bytes) -> str:
    """Write a copy of the file as it is; returns the copy's name."""
    [copy] = names_aside([path])
    write_bytes_atomic(copy, content)
    return copy.name

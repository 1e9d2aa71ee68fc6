"""The status of a run that does not reply, from the files of its folder, without torch and without YAML."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper.control.socket_path import ADDRESS_FILE
from esper.leyline import FINISHED_BY
from esper.utils.bounded_read import parse_object, read_object, read_regular
from esper.utils.lock import LOCK_FILE, live_holder

_SUMMARY = "summary.json"
_METRICS = "metrics.jsonl"
_EVENTS = "events.jsonl"
# Any of these makes a folder one of a run.
_MARKS = (ADDRESS_FILE, LOCK_FILE, _SUMMARY, _METRICS)
_TAIL_BYTES = 256 << 10


def find_run_dir(path: Path) -> Path | None:
    """The run folder that `path` is or lies in."""
    start = path.absolute()
    return next((f for f in (start, *start.parents) if any((f / m).is_file() for m in _MARKS)), None)


def read_run_state(run_dir: Path) -> dict[str, Any]:
    """State, position, losses, seeds and last checkpoint, as the run's files have them.

    `state` is finished, incomplete (it came to its end, and not all was saved), stopped, running (by the
    lock; it does not listen) or died. `unsaved` has a sentence for each result that could not be saved.
    """
    summary = _object(run_dir / _SUMMARY)
    last: dict[str, Any] = next(_lines_backwards(run_dir / _METRICS), {})
    saved = (e for e in _lines_backwards(run_dir / _EVENTS) if e.get("name") == "checkpoint_saved")
    event: dict[str, Any] = next(saved, {})
    names = ("train_loss", "val_loss", "val_accuracy", "seeds")
    # an epoch that was broken off has no line among the metrics, but events with its steps
    latest = next(_lines_backwards(run_dir / _EVENTS), {})
    at = max((last, latest), key=lambda line: (int(line.get("step", 0)), int(line.get("epoch", 0))))
    return {
        "run_dir": str(run_dir),
        **_life(run_dir, summary),
        **{name: at[name] for name in ("epoch", "step") if name in at},
        **{name: last[name] for name in names if name in last},
        **{name: summary[name] for name in ("test_accuracy", "test_loss") if summary.get(name) is not None},
        "last_checkpoint": event.get("data", {}).get("name"),
    }


def _life(run_dir: Path, summary: dict[str, Any]) -> dict[str, Any]:
    holder = live_holder(run_dir)
    if holder is not None:
        return {"state": "running", "pid": holder.pid}
    if not summary:
        return {"state": "died"}
    stopped_by = summary.get("stopped_by")
    lost = summary.get("unsaved")
    ended = "incomplete" if lost else "finished"
    state = ended if stopped_by in FINISHED_BY else "stopped"
    return {"state": state, "stopped_by": stopped_by, **({"unsaved": lost} if isinstance(lost, list) else {})}


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError):
        return {}


def _lines_backwards(path: Path) -> Iterator[dict[str, Any]]:
    """The objects at the end of a file of JSON lines, the last first; a torn one is passed over."""
    try:
        lines = read_regular(path, _TAIL_BYTES, tail=True).splitlines()
    except (OSError, ValueError):
        return
    for line in reversed(lines):
        with suppress(ValueError):
            yield parse_object(line)

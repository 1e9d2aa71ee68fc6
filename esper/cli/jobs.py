"""What became of each job: a status file in its folder, an exit code, and a table for a sweep."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper.cli.plan import Plan
from esper.errors import CheckpointError, ConfigError, DataError, OutputError
from esper.utils.bounded_read import read_object
from esper.utils.files import write_json_atomic
from esper.utils.os_signals import before_exit
from esper.utils.os_signals import exit_code as end_code
from esper.utils.stdout import print_flushed

STATUS_FILE = "status.json"
CRASH_FILE = "crash.txt"

DONE, CRASHED, REFUSED, HALTED, UNSAVED, BY_SIGHUP, BY_SIGINT, BY_SIGTERM = 0, 1, 2, 3, 4, 129, 130, 143
_STATUS = {
    DONE: "done",
    CRASHED: "crashed",
    REFUSED: "refused",
    HALTED: "halted",
    UNSAVED: "not all saved",
    BY_SIGHUP: "hung up",
    BY_SIGINT: "interrupted",
    BY_SIGTERM: "terminated",
}
# A disk that is full, failing or read-only, a path that is not accessible: a sentence is enough, for no line
# of code is at fault.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR}
# The status of jobs, by number, that could not be written.
_unwritten: dict[int | None, dict[str, Any]] = {}
_LONGEST_ERROR = 60  # characters of an error in the table


def print_errors(problems: Sequence[str], what: str = "the configuration") -> None:
    """One block on the error stream: how many problems, then each in a line."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"esper-train: {count} in {what}", *(f"  {text}" for text in problems)]
    print_flushed("\n".join(lines), sys.stderr)


def run_planned(run: Callable[[], int], folder: Path, number: int | None, overrides: Sequence[str]) -> int:
    """Call `run`, keep its status in the folder, and give back the exit code, whatever `run` raises."""
    record: dict[str, Any] = {"job": number, "overrides": list(overrides), "status": "running"}

    def over(code: int, error: str | None = None) -> None:
        _keep(folder, record | {"status": _STATUS.get(code, "failed"), "exit_code": code, "error": error})

    with before_exit(over):
        _keep(folder, record)
        code, error = _guarded(run, folder)
        over(code, error)
    return code


def _keep(folder: Path, record: dict[str, Any]) -> None:
    """Write a status; where that fails, this process remembers it: a run is worth more than its status."""
    try:
        write_json_atomic(folder / STATUS_FILE, record)
    except OSError as error:
        _unwritten[record["job"]] = record
        print_flushed(f"esper-train: {folder / STATUS_FILE} cannot be written: {error.strerror}", sys.stderr)
    else:
        _unwritten.pop(record["job"], None)


def _guarded(run: Callable[[], int], folder: Path) -> tuple[int, str | None]:
    try:
        return run(), None
    except (ConfigError, DataError, CheckpointError) as error:
        print_errors(str(error).splitlines(), "the configuration or its input")
        return REFUSED, str(error)
    except OutputError as error:
        print_errors(error.problems, f"writing to {folder}; what is there stands")
        # a signal ends a whole sweep, so its code comes first; the status has the error
        return end_code(error.stopped_by) or UNSAVED, str(error)
    except OSError as error:
        return _not_written(error, folder)
    except KeyboardInterrupt:
        return BY_SIGINT, None
    except SystemExit as stop:
        return (stop.code if isinstance(stop.code, int) else CRASHED if stop.code else DONE), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it must reach the crash file and the exit code
        return _crashed(error, folder)


def _not_written(error: OSError, folder: Path) -> tuple[int, str]:
    if error.errno not in _NO_ROOM | _NO_PLACE:
        return _crashed(error, folder)
    print_errors(str(error).splitlines(), f"writing to {folder}; what is there stands")
    return CRASHED, str(error)


def _crashed(error: Exception, folder: Path) -> tuple[int, str]:
    text = "".join(traceback.format_exception(error))
    print_flushed(text.rstrip("\n"), sys.stderr)
    with suppress(OSError):
        (folder / CRASH_FILE).write_text(text, encoding="utf-8")
    return CRASHED, f"{type(error).__name__}: {error}"


def exit_code(plan: Plan) -> int:
    """The one code of all jobs that did not end well, 1 where they differ or a job left no code, else 0."""
    codes = {record.get("exit_code", CRASHED) for record in _records(plan)} - {DONE}
    if len(codes) == 1:
        return int(codes.pop())
    return CRASHED if codes else DONE


def outcome_table(plan: Plan) -> str:
    """A line for each job of a sweep: number, status, overrides, error."""
    rows = [("job", "status", "overrides", "error")]
    for record in _records(plan):
        error = " ".join((record.get("error") or "").split())
        short = error if len(error) <= _LONGEST_ERROR else f"{error[: _LONGEST_ERROR - 3]}..."
        rows.append((str(record["job"]), record["status"], " ".join(record["overrides"]), short))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def clear_status(plan: Plan) -> None:
    """Remove the status of an earlier run in the same folder."""
    _unwritten.clear()
    for path in _status_files(plan):
        path.unlink()


def _status_files(plan: Plan) -> list[Path]:
    if plan.sweep:
        return sorted(plan.folder.rglob(STATUS_FILE))
    # only its own: the folders of other runs may lie in this one
    own = plan.folder / STATUS_FILE
    return [own] if own.exists() else []


def _records(plan: Plan) -> list[dict[str, Any]]:
    """The status of every job, those that never started included, in their order."""
    found = [_read(path) for path in _status_files(plan)]
    records = {record["job"]: record for record in found if record} | _unwritten
    if plan.complete:
        for job in plan.jobs:
            fresh = {"job": job.number, "status": "not started", "overrides": list(job.overrides)}
            records.setdefault(job.number, fresh)
    return sorted(records.values(), key=lambda record: record["job"] or 0)


def _read(path: Path) -> dict[str, Any]:
    """The status in a file; empty where it is none, as after a power failure."""
    try:
        record = read_object(path)
        return record if {"job", "status", "overrides"} <= record.keys() else {}
    except (OSError, ValueError):
        return {}

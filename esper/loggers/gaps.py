"""What is missing of a run's own files when it is resumed: lost, cut off or unreadable lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from esper.leyline import EventName
from esper.loggers.jsonl_reader import EVENTS_FILE, METRICS_FILE, STEPS_FILE, read_jsonl
from esper.utils.bounded_read import parse_object


def describe_gaps(run_dir: Path, saved: Mapping[str, Any], epoch: int, *, interval: int = 1) -> str:
    """Say what the files lack of what they held when the run was saved, with the missing epochs.

    `saved` are their lengths in bytes at that time, `epoch` is the last one by then, `interval` how many
    epochs there are to a line. Returns an empty text where nothing is missing.
    """
    found = []
    for name in (METRICS_FILE, EVENTS_FILE, STEPS_FILE):
        length = saved.get(name, 0)
        if isinstance(length, int) and length > 0:
            lines, problem = _inspect(run_dir / name, length)
            if problem and name == METRICS_FILE:
                problem += _missing_epochs(lines, _first_epoch(run_dir), epoch, interval)
            found += [problem] if problem else []
    return "; ".join(found)


def _inspect(path: Path, length: int) -> tuple[list[dict[str, Any]], str]:
    """The good lines among the first bytes of a file, and what is wrong with these."""
    try:
        with path.open("rb") as file:
            content = file.read(length)
    except FileNotFoundError:
        return [], f"{path.name} is missing"
    lines = content.splitlines(keepends=True)
    parsed = [_parsed(line) for line in lines]
    good = [line for line in parsed if line is not None]
    if len(content) < length:
        return good, f"{path.name} has {len(content)} of the {length} bytes that it had"
    bad = [str(number) for number, line in enumerate(parsed, start=1) if line is None]
    return good, f"{path.name} is damaged in line {', '.join(bad)}" if bad else ""


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return parse_object(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _first_epoch(run_dir: Path) -> int:
    """The first epoch that the run trained: later than 1 where it began from another run's checkpoint."""
    for event in read_jsonl(run_dir / EVENTS_FILE, skip_damaged=True):
        if event.get("name") == EventName.RUN_STARTED and type(event.get("epoch")) is int:
            return int(event["epoch"]) + 1
    return 1


def _missing_epochs(lines: Iterable[Mapping[str, Any]], first: int, last: int, interval: int) -> str:
    there = {line.get("epoch") for line in lines}
    missing = [n for n in range(first, last + 1) if n % interval == 0 and n not in there]
    if not missing:
        return ""
    word = "epoch" if len(missing) == 1 else "epochs"
    return f" ({word} {', '.join(_ranges(missing))} not in it)"


def _ranges(numbers: list[int]) -> Iterator[str]:
    """Each run of consecutive numbers as `3` or `3 to 7`."""
    start = numbers[0]
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        if following != number + 1:
            yield str(start) if start == number else f"{start} to {number}"
            start = following or 0

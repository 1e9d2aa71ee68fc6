"""A run's own files: metrics.jsonl, steps.jsonl and events.jsonl."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

from esper.errors import OutputError
from esper.leyline import Event
from esper.loggers.base import Json, Logger, RunInfo
from esper.loggers.json_encoding import to_json_line
from esper.loggers.jsonl_reader import EVENTS_FILE, METRICS_FILE, STEPS_FILE
from esper.loggers.metrics_copy import EPOCHS, MetricsCopy


class JsonlLogger(Logger):
    """Appends one JSON object a line, at once readable by others; steps.jsonl appears with the first step.

    A continued run first cuts each file back to the length it had when the run was saved, so that no line
    comes twice. A fresh run in a folder that has such files sets them aside (`metrics.1.jsonl`). `OSError`
    (a full disk) is raised to the caller: a run without its records should not go on.
    """

    NAME = "jsonl"

    def __init__(self) -> None:
        self.name = self.NAME
        self._run_dir = Path()
        self._files: dict[str, IO[str]] = {}
        self._copy = MetricsCopy()

    def start(self, info: RunInfo) -> None:
        self._run_dir = info.run_dir
        saved = info.state.get(self.name, {})
        for name in (METRICS_FILE, EVENTS_FILE, STEPS_FILE):
            path = info.run_dir / name
            if path.exists() and info.resumed:
                # a file that appeared after the run was saved has no line that stays
                _cut(path, saved.get(name, 0) if saved else None)
                self._open(name)
            elif path.exists():
                _set_aside(path)
        self._open(METRICS_FILE)
        self._open(EVENTS_FILE)
        self._copy = MetricsCopy((info.run_dir / METRICS_FILE).read_bytes())

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._write(METRICS_FILE, record)

    def step(self, record: Mapping[str, Any]) -> None:
        self._write(STEPS_FILE, record)

    def event(self, event: Event) -> None:
        line = {"time": event.time, "name": event.name, "level": event.level}
        self._write(EVENTS_FILE, {**line, "step": event.step, "epoch": event.epoch, "data": event.data})

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def state(self) -> dict[str, Json]:
        """Return the files' lengths in bytes and a copy of the epochs; `sync` brings all to the disk."""
        lengths = {name: os.fstat(file.fileno()).st_size for name, file in self._files.items()}
        return {**lengths, EPOCHS: [*self._copy.to_json()]} if lengths else {}

    def sync(self) -> None:
        """Wait until what has been written is on the disk; from any thread, by the files' names."""
        for name in list(self._files):
            with (self._run_dir / name).open("rb") as file:
                os.fsync(file.fileno())

    def missing(self) -> list[str]:
        """A sentence for each file that is not in the run folder any more."""
        paths = {self._run_dir / name: file for name, file in self._files.items()}
        return [
            f"{path} was removed or replaced while the run was writing to it"
            for path, file in paths.items()
            if not _is_path_of(path, file)
        ]

    def rewind(self, state: Mapping[str, Json]) -> None:
        """Truncate the files of epochs and steps to their earlier lengths; events are kept."""
        lengths = self._earlier(state)
        with _removal_as_output_error():
            for name, length in lengths.items():
                self._files.pop(name).close()
                _cut(self._run_dir / name, length)
            self._open(METRICS_FILE)
        self._copy.cut(lengths.get(METRICS_FILE, 0))

    def rewound(self, state: Mapping[str, Json]) -> dict[str, Json]:
        """Return what `state()` will return after `rewind(state)`."""
        lengths = self._earlier(state)
        return {**self.state(), **lengths, EPOCHS: [*self._copy.to_json(lengths.get(METRICS_FILE, 0))]}

    def _earlier(self, state: Mapping[str, Json]) -> dict[str, int]:
        """The lengths to cut to, of the files that are cut."""
        lengths = {name: state.get(name, 0) for name in (METRICS_FILE, STEPS_FILE) if name in self._files}
        return {name: length if isinstance(length, int) else 0 for name, length in lengths.items()}

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        line = to_json_line(record) + "\n"
        with _removal_as_output_error():
            self._open(name).write(line)
        if name == METRICS_FILE:
            self._copy.append(line.encode())

    def _open(self, name: str) -> IO[str]:
        if name not in self._files:
            path = self._run_dir / name
            self._files[name] = path.open("a", buffering=1, encoding="utf-8", newline="\n")
        return self._files[name]


@contextmanager
def _removal_as_output_error() -> Iterator[None]:
    """A run whose folder was removed has lost its results; that is no crash."""
    try:
        yield
    except FileNotFoundError as error:
        raise OutputError([f"{error.filename} was removed while the run was writing to it"]) from error


def _is_path_of(path: Path, file: IO[str]) -> bool:
    """Whether this is the name of the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _set_aside(path: Path) -> None:
    """Rename an earlier run's file to the first free of `<stem>.1.jsonl`, `<stem>.2.jsonl`, ..."""
    free = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
    path.rename(next(candidate for candidate in free if not candidate.exists()))


def _cut(path: Path, length: int | None) -> None:
    """Cut `path` to `length` bytes (None: all there is), and drop a last line without its end."""
    content = path.read_bytes()
    kept = content[:length]
    whole = kept.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)

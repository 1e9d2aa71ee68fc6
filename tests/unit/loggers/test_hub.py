from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from esper.leyline import Event, EventName, Level
from esper.loggers import Json, JsonlLogger, Logger, LoggerHub, RunInfo, read_jsonl


class Notes(Logger):
    """Keeps every call it gets, and the threads they came on."""

    def __init__(self, name: str = "notes", *, every_epoch: bool = False) -> None:
        self.name = name
        self.every_epoch = every_epoch
        self.calls: list[tuple[str, Any]] = []
        self.threads: set[str] = set()

    def note(self, kind: str, payload: Any = None) -> None:
        self.calls.append((kind, payload))
        self.threads.add(threading.current_thread().name)

    def start(self, info: RunInfo) -> None:
        self.note("start", info)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.note("epoch", record["epoch"])

    def step(self, record: Mapping[str, Any]) -> None:
        self.note("step", record["step"])

    def event(self, event: Event) -> None:
        self.note("event", event)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.note("finish", summary)

    def close(self) -> None:
        self.note("close")

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.calls]

    def events(self) -> list[Event]:
        return [payload for kind, payload in self.calls if kind == "event"]


class Breaks(Notes):
    """A fault: raises in the chosen call; `fired` counts."""

    def __init__(self, where: str) -> None:
        super().__init__("breaks")
        self.where = where
        self.fired = 0

    def note(self, kind: str, payload: Any = None) -> None:
        super().note(kind, payload)
        if kind == self.where:
            self.fired += 1
            raise RuntimeError("the server is gone")


class Blocks(Notes):
    """A fault: its first step does not return before `release` is set."""

    def __init__(self) -> None:
        super().__init__("blocks")
        self.release = threading.Event()
        self.entered = threading.Event()

    def step(self, record: Mapping[str, Any]) -> None:
        self.entered.set()
        assert self.release.wait(30)
        super().step(record)


class Remembers(Notes):
    """A logger with an id that is new in each process, unless it was saved."""

    def __init__(self, fresh: str) -> None:
        super().__init__("remembers")
        self.id = fresh

    def start(self, info: RunInfo) -> None:
        self.id = info.state.get(self.name, {}).get("id", self.id)

    def state(self) -> dict[str, Json]:
        return {"id": self.id}


def _clock() -> float:
    return 7.0


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_every_sink_gets_everything_in_order(make_info: Any, make_epoch: Any, make_move: Any) -> None:
    """Files are written on the loop's thread, other loggers run on the worker."""
    fast, slow = Notes(), Notes()
    recorder = LoggerHub([fast], [slow], _clock)
    info, move = make_info(), make_move("dormant", "germinated")
    recorder.start(info)
    recorder.step({"step": 1})
    recorder.epoch(make_epoch(1))
    recorder.event(move)
    recorder.finish({"epochs_run": 1})
    recorder.close()
    expected = [("start", info), ("step", 1), ("epoch", 1), ("event", move)]
    assert fast.calls == slow.calls == [*expected, ("finish", {"epochs_run": 1}), ("close", None)]
    assert fast.threads == {threading.current_thread().name}
    # opened before the run begins, on the caller's thread: native imports and setenv beside computing crash
    assert slow.threads == {threading.current_thread().name, "esper-records"}
    assert "esper-records" not in _threads()


def test_a_record_changed_afterwards_reaches_slow_sinks_as_it_was(make_info: Any, make_epoch: Any) -> None:
    slow = Blocks()
    recorder = LoggerHub([], [slow], _clock)
    recorder.start(make_info())
    recorder.step({"step": 1})
    record = make_epoch(1)
    recorder.epoch(record)
    record["epoch"] = 99
    slow.release.set()
    recorder.close()
    assert ("epoch", 1) in slow.calls


@pytest.mark.parametrize("where", ["start", "step", "epoch", "event", "finish", "close"])
def test_a_sink_that_fails_is_switched_off_with_one_warning(
    make_info: Any, make_epoch: Any, make_move: Any, where: str
) -> None:
    """A logger that fails is switched off with one warning, and the run continues."""
    files, broken, sound = Notes(), Breaks(where), Notes()
    recorder = LoggerHub([files], [broken, sound], _clock)
    recorder.start(make_info())
    for epoch in (1, 2):
        recorder.step({"step": 10 * epoch})
        recorder.epoch(make_epoch(epoch))
        recorder.event(make_move("dormant", "germinated", step=10 * epoch))
    recorder.finish({})
    recorder.close()
    assert broken.fired == 1
    assert broken.kinds().count("close") == 1
    (warning,) = [event for event in files.events() if event.name == EventName.LOGGER_FAILED]
    assert (warning.level, warning.time) == (Level.WARNING, 7.0)
    assert warning.data == {"sink": "breaks", "error": "RuntimeError: the server is gone"}
    for kind, count in {"step": 2, "epoch": 2, "finish": 1, "close": 1}.items():
        assert files.kinds().count(kind) == sound.kinds().count(kind) == count


def test_the_other_slow_sinks_hear_of_a_failure(make_info: Any) -> None:
    broken, sound = Breaks("start"), Notes()
    recorder = LoggerHub([], [broken, sound], _clock)
    recorder.start(make_info())
    _wait_for(lambda: broken.fired)
    for step in range(1, 4):
        recorder.step({"step": step})
        time.sleep(0.01)
    recorder.close()
    assert [event.name for event in sound.events()] == [EventName.LOGGER_FAILED]


def test_a_file_that_cannot_be_written_stops_the_run(make_info: Any) -> None:
    recorder = LoggerHub([Breaks("step")], [], _clock)
    recorder.start(make_info())
    with pytest.raises(RuntimeError, match="the server is gone"):
        recorder.step({"step": 1})
    recorder.close()


def test_a_blocked_sink_never_makes_the_loop_wait(make_info: Any, make_epoch: Any) -> None:
    files, blocked = Notes(), Blocks()
    recorder = LoggerHub([files], [blocked], _clock, capacity=10)
    recorder.start(make_info())
    recorder.step({"step": 1})
    assert blocked.entered.wait(10)
    for step in range(2, 102):
        recorder.step({"step": step})
    recorder.epoch(make_epoch(11))
    assert recorder.dropped == {"step": 91}  # 100 steps and an epoch into a queue of ten
    blocked.release.set()
    recorder.close()
    assert [payload for kind, payload in blocked.calls if kind == "step"] == [1, *range(94, 102)]
    assert ("epoch", 11) in blocked.calls
    (notice,) = files.events()
    assert (notice.level, notice.data["dropped"]) == (
        Level.WARNING,
        {"step": 92},
    )  # the closing call took one
    assert files.kinds().count("step") == 101


def test_close_gives_up_on_a_sink_that_never_returns(make_info: Any) -> None:
    files, blocked = Notes(), Blocks()
    recorder = LoggerHub([files], [blocked], _clock)
    recorder.start(make_info())
    recorder.step({"step": 1})
    assert blocked.entered.wait(10)
    began = time.monotonic()
    recorder.close(timeout_s=0.2)
    assert time.monotonic() - began < 5
    (warning,) = files.events()
    assert warning.name == EventName.LOGGER_FAILED
    assert warning.data == {"sinks": ["blocks"], "error": "not done within 0.2 s"}
    assert files.kinds()[-1] == "close"
    blocked.release.set()
    _wait_for(lambda: "esper-records" not in _threads())


def test_ids_are_known_before_the_first_step(make_info: Any) -> None:
    """Logger ids are saved before step 1, and a continued run keeps them."""
    first = LoggerHub([], [Remembers("abc")], _clock)
    first.start(make_info())
    saved = first.state()
    assert saved == {"remembers": {"id": "abc"}}
    second = LoggerHub([], [Remembers("xyz")], _clock)
    second.start(make_info(resumed=True, state=saved))
    assert second.state() == saved
    first.close()
    second.close()
    assert second.state() == saved


def test_files_tell_where_they_are(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    recorder = LoggerHub([JsonlLogger(), Notes()], [], _clock)
    recorder.start(make_info())
    recorder.epoch(make_epoch(1))
    size = (tmp_path / "metrics.jsonl").stat().st_size
    state = recorder.state()
    assert state["jsonl"].pop("epochs")  # a copy of the lines
    assert state == {"jsonl": {"metrics.jsonl": size, "events.jsonl": 0}}
    recorder.close()


def test_metrics_interval_and_the_last_epoch(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    """`metrics_interval` is epochs between lines in metrics.jsonl and points in the loggers."""
    display, slow = Notes(every_epoch=True), Notes()
    recorder = LoggerHub([JsonlLogger(), display], [slow], _clock, metrics_interval=3)
    recorder.start(make_info())
    for epoch in range(1, 8):
        recorder.epoch(make_epoch(epoch))
    recorder.finish({})
    recorder.close()
    assert [line["epoch"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [3, 6, 7]
    assert [payload for kind, payload in slow.calls if kind == "epoch"] == [3, 6, 7]
    assert [payload for kind, payload in display.calls if kind == "epoch"] == list(range(1, 8))


def test_close_without_start_is_quiet() -> None:
    logger = Notes()
    LoggerHub([logger], [Notes()], _clock).close()
    assert logger.kinds() == ["close"]


def test_a_rewind_reaches_the_files_each_with_its_own_state(make_info: Any, make_epoch: Any) -> None:
    """An epoch that is held back for the metrics interval is undone with the others."""

    class Rewinds(Notes):
        def rewind(self, state: Mapping[str, Any]) -> None:
            self.note("rewind", dict(state))

    file, slow = Rewinds("file"), Rewinds("slow")
    recorder = LoggerHub([file], [slow], _clock, metrics_interval=2)
    recorder.start(make_info())
    recorder.epoch(make_epoch(1))
    recorder.rewind({"file": {"lines": 0}, "slow": {"x": 1}})
    recorder.finish({})
    recorder.close()
    assert [call for call in file.calls if call[0] in ("epoch", "rewind")] == [("rewind", {"lines": 0})]
    assert [call for call in slow.calls if call[0] in ("epoch", "rewind")] == []

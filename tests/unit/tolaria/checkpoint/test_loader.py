"""At most one loader thread; what it brings too late reaches nobody."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.checkpoint.loader import CheckpointReader


class SlowDisk:
    """A read that ends when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.reads = 0

    def read(self) -> Checkpoint:
        self.reads += 1
        self.go.wait(30)
        self.made = Checkpoint(Path("late"), {}, {})
        return self.made


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "esper-loader"]


def until_idle(loader: CheckpointReader) -> None:
    end = time.monotonic() + 10
    while loader.busy and time.monotonic() < end:
        time.sleep(0.001)
    assert not loader.busy


def test_what_comes_in_time_is_given() -> None:
    loader, disk = CheckpointReader(), SlowDisk()
    disk.go.set()
    found = loader.start(disk.read)(10)
    assert found is disk.made
    until_idle(loader)
    assert loaders() == []


def test_who_stops_waiting_goes_on_and_the_thread_ends_with_its_read() -> None:
    loader, disk = CheckpointReader(), SlowDisk()
    began = time.perf_counter()
    assert loader.start(disk.read)(0.05) is None
    assert time.perf_counter() - began < 5
    assert loader.busy
    assert len(loaders()) == 1
    with pytest.raises(AssertionError, match="one read at a time"):
        loader.start(disk.read)
    disk.go.set()
    until_idle(loader)
    assert disk.reads == 1
    assert loader.start(disk.read)(10) is disk.made  # the next one is its own, not the late one
    assert disk.reads == 2
    until_idle(loader)


def test_what_comes_late_is_let_go() -> None:
    loader, go = CheckpointReader(), threading.Event()
    late: list[weakref.ref[Path]] = []

    class Traced(Path().__class__):  # type: ignore[misc]
        """A path that can be referred to weakly, as a part of what is read."""

        __slots__ = ("__weakref__",)

    def read() -> Checkpoint:
        go.wait(30)
        path = Traced("late")
        late.append(weakref.ref(path))
        return Checkpoint(path, {}, {})

    assert loader.start(read)(0.01) is None
    go.set()
    until_idle(loader)
    gc.collect()
    assert [reference() for reference in late] == [None]


def test_what_a_read_raises_is_raised_to_who_waits() -> None:
    def broken() -> Checkpoint:
        raise CheckpointError("nothing good here")

    with pytest.raises(CheckpointError, match="nothing good here"):
        CheckpointReader().start(broken)(10)

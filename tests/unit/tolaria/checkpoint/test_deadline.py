"""A deadline signal can be shared with another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from esper.tolaria.checkpoint.deadline import DeadlineSignal, Missed

READER = """
import sys, time
from pathlib import Path
from esper.tolaria.checkpoint.deadline import DeadlineSignal
signal = DeadlineSignal(Path(sys.argv[1]))
print("ready", flush=True)
until = time.monotonic() + 30
while (missed := signal.read()) is None and time.monotonic() < until:
    time.sleep(0.001)
print(missed, flush=True)
signal.set("seen", 2.5)
"""


def test_it_is_told_and_forgotten(tmp_path: Path) -> None:
    signal = DeadlineSignal(tmp_path / "deadline")
    assert signal.read() is None
    signal.set("the disk", 12.25)
    assert signal.read() == Missed(12.25, "the disk")
    assert DeadlineSignal(tmp_path / "deadline").read() == Missed(12.25, "the disk")
    signal.set("é" * 1000, 1.0)
    long = signal.read()
    assert long is not None and 100 < len(long.cause) < 512 and set(long.cause) == {"é"}
    signal.set("short", 2.0)
    assert signal.read() == Missed(2.0, "short")
    signal.clear()
    assert signal.read() is None
    signal.close()


def test_another_process_sees_it_and_can_answer(tmp_path: Path) -> None:
    path = tmp_path / "deadline"
    signal = DeadlineSignal(path)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        signal.set("no checkpoint was read", 7.5)
        assert other.stdout.readline() == f"{Missed(7.5, 'no checkpoint was read')}\n"
        assert other.wait(30) == 0
    assert signal.read() == Missed(2.5, "seen")

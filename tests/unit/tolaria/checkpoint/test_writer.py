"""Writes go on in the background, one at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.writer import Writer


def test_it_runs_elsewhere_and_is_waited_for() -> None:
    writer, go, seen = Writer(), threading.Event(), []
    assert writer.wait() is None

    def write() -> None:
        go.wait(30)
        seen.append(threading.current_thread())

    writer.start(write)
    assert writer.busy
    assert seen == []
    go.set()
    assert writer.wait() is None
    assert not writer.busy
    assert seen != [threading.current_thread()]
    writer.close()
    assert not seen[0].is_alive()
    writer.start(lambda: None)  # closed is not the end
    assert writer.wait() is None


@pytest.mark.parametrize("error", [OSError(28, "full"), CheckpointError("no"), MemoryError()])
def test_why_a_write_failed_is_returned_once(error: Exception) -> None:
    writer = Writer()

    def write() -> None:
        raise error

    writer.start(write)
    assert writer.wait() is error
    assert writer.wait() is None
    writer.start(lambda: None)
    assert writer.wait() is None


def test_a_defect_is_raised_where_somebody_sees_it() -> None:
    writer = Writer()
    writer.start(lambda: {}["no such key"])  # type: ignore[index]
    with pytest.raises(KeyError):
        writer.wait()
    assert writer.wait() is None


def test_no_second_write_is_begun_before_the_first_is_waited_for() -> None:
    writer = Writer()
    writer.start(lambda: None)
    with pytest.raises(AssertionError, match="not been waited for"):
        writer.start(lambda: None)
    writer.wait()


def test_a_process_that_ends_by_an_error_still_ends_its_write(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from esper.tolaria.checkpoint.writer import Writer\n"
        "def write():\n    time.sleep(0.3); Path(sys.argv[1]).write_text('whole')\n"
        "Writer().start(write)\nraise SystemExit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], timeout=60, check=False)
    assert done.returncode == 1
    assert (tmp_path / "x").read_text() == "whole"

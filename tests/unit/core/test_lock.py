"""R20: a folder has one run; a second is told who has it; the lock dies with its holder and no later."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from esper.core.lock import LOCK_FILE, FolderLock, Holder, holder_of, live_holder
from esper.errors import ConfigError

HOLD = """
import sys, time
from pathlib import Path
from esper.core.lock import FolderLock
lock = FolderLock.take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def other(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_taker_is_told_who_has_it_and_a_dead_one_is_followed(tmp_path: Path) -> None:
    process = other(tmp_path)
    try:
        with pytest.raises(ConfigError, match=rf"in use by process {process.pid} on .*since 20.*: -c"):
            FolderLock.take(tmp_path)
        assert live_holder(tmp_path) == holder_of(tmp_path) != None  # noqa: E711
    finally:
        end(process)
    assert (tmp_path / LOCK_FILE).exists()
    assert live_holder(tmp_path) is None
    lock = FolderLock.take(tmp_path)
    assert lock.guarded
    assert lock.former is not None and lock.former.pid == process.pid
    found = holder_of(tmp_path)
    assert found is not None and found.pid == os.getpid() and found.alive
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock.release()
    again = FolderLock.take(tmp_path)
    assert again.former is None
    again.release()


def test_two_runs_of_one_process_are_two_runs(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path)
    with pytest.raises(ConfigError, match=f"process {os.getpid()} "):
        FolderLock.take(tmp_path)
    with pytest.raises(ConfigError, match=f"process {os.getpid()} "):
        FolderLock.take(tmp_path)  # looking at it has not let it go
    lock.release()
    FolderLock.take(tmp_path).release()


def _sleep(entered: object) -> None:
    entered.set()  # type: ignore[attr-defined]
    threading.Event().wait(60)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_worker_does_not_keep_it(tmp_path: Path) -> None:
    """A worker of a DataLoader may outlive its parent: the folder is free all the same."""
    lock = FolderLock.take(tmp_path)
    context = multiprocessing.get_context("fork")
    entered = context.Event()
    worker = context.Process(target=_sleep, args=(entered,))
    worker.start()
    try:
        assert entered.wait(10)
        with pytest.raises(ConfigError):
            FolderLock.take(tmp_path)  # the fork has not given it free either
        lock.release()
        assert worker.is_alive()
        FolderLock.take(tmp_path).release()
    finally:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()


def test_a_child_cannot_release_its_parents_lock(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path)
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(ConfigError):
        FolderLock.take(tmp_path)
    lock.release()


def test_of_many_takers_one_has_it(tmp_path: Path) -> None:
    """Taken and given free over and over: never two at a time, whoever removes the file."""
    inside, most, taken = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, taken
        for _ in range(60):
            try:
                lock = FolderLock.take(tmp_path)
            except ConfigError:
                continue
            with guard:
                inside += 1
                most, taken = max(most, inside), taken + 1
            with guard:
                inside -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and taken > 4


def test_only_the_very_process_is_alive() -> None:
    """A number that another process has been given since, and a process of another host."""
    here = Holder.here()
    assert here.alive
    assert not replace(here, born=here.born - 100).alive
    assert not replace(here, pid=2**22 + 1).alive
    assert replace(here, host="elsewhere", pid=2**22 + 1).alive


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"pid": "x"}', b"{}" * 4000])
def test_a_lock_file_that_says_nothing_is_still_a_lock_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    assert holder_of(tmp_path) is None
    lock = FolderLock.take(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_bytes()) == asdict(holder_of(tmp_path) or Holder.here())
    (tmp_path / LOCK_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="in use by another process"):
        FolderLock.take(tmp_path)
    lock.release()


def test_what_cannot_be_locked_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be locked: No such file"):
        FolderLock.take(tmp_path / "absent")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot be locked"):
        FolderLock.take(tmp_path)
    assert not (tmp_path / "elsewhere").exists()

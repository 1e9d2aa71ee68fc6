"""A folder has one run; a second one is rejected with the holder's name; the lock ends with its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from esper.errors import ConfigError
from esper.utils import lock as lock_module
from esper.utils.heartbeat import Heartbeat
from esper.utils.lock import LOCK_FILE, FolderLock, Holder, live_holder, read_holder

HOLD = """
import sys, time
from pathlib import Path
from esper.utils.lock import FolderLock
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


def test_a_second_run_is_refused_with_the_holder_and_a_dead_holder_is_replaced(tmp_path: Path) -> None:
    process = other(tmp_path)
    try:
        with pytest.raises(ConfigError, match=rf"in use by process {process.pid} on .*since 20.*: -c"):
            FolderLock.take(tmp_path)
        assert live_holder(tmp_path) == read_holder(tmp_path) != None  # noqa: E711
    finally:
        end(process)
    assert (tmp_path / LOCK_FILE).exists()
    assert live_holder(tmp_path) is None
    lock = FolderLock.take(tmp_path)
    assert lock.guarded
    assert lock.former is not None and lock.former.pid == process.pid
    found = read_holder(tmp_path)
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
    """Locked and released repeatedly: never two at a time, also if the file is removed."""
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
    """A number that another process has been given since, and a process of another machine."""
    here = Holder.here()
    assert here.alive
    assert not replace(here, born=here.born - 100).alive
    dead = replace(here, pid=2**22 + 1)
    assert not dead.alive
    assert not replace(dead, host="renamed").alive, "what a machine is called is not which one it is"
    assert replace(dead, machine="another").alive and replace(dead, numbers="another").alive
    old = replace(dead, machine="", numbers="")  # as earlier versions wrote it
    assert not old.alive and replace(old, host="elsewhere").alive


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"pid": "x"}', b"{}" * 4000])
def test_a_lock_file_that_says_nothing_is_still_a_lock_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    assert read_holder(tmp_path) is None
    lock = FolderLock.take(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_bytes()) == asdict(read_holder(tmp_path) or Holder.here())
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


RENAMED = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]
CAN_RENAME = subprocess.run([*RENAMED, "true"], capture_output=True).returncode == 0
SILENT_S = 0.4


def killed_on(host: list[str], folder: Path) -> int:
    """A holder that was started by way of `host` and killed; returns its number."""
    process = subprocess.Popen(
        [*host, sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    end(process)
    return process.pid


def note_of(folder: Path, **changes: object) -> Holder:
    """The note of a holder of another machine whose lock is not known here."""
    holder = replace(Holder.here(), host="far", machine="another", pid=2**22 + 1, **changes)
    (folder / LOCK_FILE).write_text(json.dumps(asdict(holder)))
    return holder


def aged(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / LOCK_FILE, (then, then))


@pytest.mark.skipif(not CAN_RENAME, reason="needs root to change the host name of a process")
def test_a_holder_killed_under_another_host_name_is_followed_at_once(tmp_path: Path) -> None:
    """A container that starts again has another name; the kernel says that the lock is free."""
    pid = killed_on(RENAMED, tmp_path)
    began = time.monotonic()
    lock = FolderLock.take(tmp_path)
    assert time.monotonic() - began < 1.0
    assert lock.former is not None and (lock.former.pid, lock.former.host) == (pid, "elsewhere")
    assert lock.taken_over.startswith(f"process {pid} on elsewhere (since ")
    assert lock.taken_over.endswith("ended without releasing this folder")
    lock.release()


@pytest.mark.skipif(not CAN_RENAME, reason="needs root to change the host name of a process")
def test_a_living_holder_under_another_host_name_is_not(tmp_path: Path) -> None:
    argv = [*RENAMED, sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"in use by process {process.pid} on elsewhere"):
            FolderLock.take(tmp_path)
        found = live_holder(tmp_path)
        assert found is not None and found.local and found.pid == process.pid
    finally:
        end(process)


def test_another_containers_holder_is_dead_when_its_lock_is_free(tmp_path: Path) -> None:
    """The same kernel with other process numbers: number 2**22 + 1 may well be alive over there."""
    former = replace(Holder.here(), host="pod-1", numbers="another")
    (tmp_path / LOCK_FILE).write_text(json.dumps(asdict(former)))
    assert live_holder(tmp_path) == former, "its last beat is recent; the kernel's lock is not checked yet"
    lock = FolderLock.take(tmp_path)
    assert lock.former == former
    assert "on pod-1" in lock.taken_over and lock.taken_over.endswith("can tell: the lock is free")
    lock.release()
    aged_note = note_of(tmp_path)
    aged(tmp_path, 60)
    assert live_holder(tmp_path) is None and read_holder(tmp_path) == aged_note


def test_another_machines_holder_that_beats_is_alive_though_its_lock_seems_free(tmp_path: Path) -> None:
    """A network file system without locks: only the heartbeat is visible."""
    note_of(tmp_path)
    aged(tmp_path, 0.5)  # between two beats
    with beating(tmp_path), pytest.raises(ConfigError, match=r"in use by process .* on far") as caught:
        FolderLock.take(tmp_path, silent_s=5.0)
    assert f"If that process has certainly ended, remove {tmp_path / LOCK_FILE}" in str(caught.value)
    lock = FolderLock.take(tmp_path, silent_s=SILENT_S)
    assert "on far" in lock.taken_over
    assert lock.taken_over.endswith("the lock is free, and run.lock has not been renewed for 30 s")
    lock.release()


@contextmanager
def beating(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR)
    beat = Heartbeat(descriptor, every_s=0.1)
    try:
        yield
    finally:
        beat.stop()
        os.close(descriptor)


def test_a_holder_that_has_been_silent_for_long_is_not_waited_for(tmp_path: Path) -> None:
    note_of(tmp_path)
    aged(tmp_path, 31)
    began = time.monotonic()
    FolderLock.take(tmp_path).release()
    assert time.monotonic() - began < 1.0
    note_of(tmp_path)
    began = time.monotonic()
    FolderLock.take(tmp_path, silent_s=SILENT_S).release()
    assert time.monotonic() - began > SILENT_S / 2, "a beat that may still come is waited for"


def test_who_is_refused_does_not_make_the_holder_look_alive(tmp_path: Path) -> None:
    """A run that is started over and over while another machine's beats would else never get the folder."""
    note = note_of(tmp_path)
    aged(tmp_path, 0.5)
    beat = threading.Timer(0.1, os.utime, (tmp_path / LOCK_FILE, (1e9, 1e9)))
    beat.start()
    with pytest.raises(ConfigError):
        FolderLock.take(tmp_path, silent_s=5.0)
    beat.join()
    assert (tmp_path / LOCK_FILE).stat().st_mtime == 1e9
    assert read_holder(tmp_path) == note


def test_a_holder_renews_its_file_and_stops_with_the_lock(tmp_path: Path) -> None:
    lock_file = tmp_path / LOCK_FILE
    lock_file.write_bytes(b"")
    threads = threading.active_count()
    with beating(tmp_path):
        before = lock_file.stat().st_mtime_ns
        end_s = time.monotonic() + 5
        while lock_file.stat().st_mtime_ns == before and time.monotonic() < end_s:
            time.sleep(0.01)
        assert lock_file.stat().st_mtime_ns > before
    lock = FolderLock.take(tmp_path)
    assert threading.active_count() == threads + 1
    lock.release()
    assert threading.active_count() == threads


@pytest.mark.parametrize("pretends", [True, False])
def test_a_file_system_without_working_locks_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretends: bool
) -> None:
    """One that says so, and one whose every lock succeeds; process numbers and heartbeats then decide."""

    def flock(descriptor: int, flags: int) -> None:
        if not pretends:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_module.fcntl, "flock", flock)
    lock = FolderLock.take(tmp_path)
    assert not lock.guarded
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} "):
        FolderLock.take(tmp_path)
    lock.release()
    note_of(tmp_path)
    with beating(tmp_path), pytest.raises(ConfigError, match=r"in use by process .* on far"):
        FolderLock.take(tmp_path, silent_s=5.0)
    lock = FolderLock.take(tmp_path, silent_s=SILENT_S)
    assert "no working locks, and run.lock has not been renewed" in lock.taken_over
    lock.release()


def test_one_folder_by_two_paths_is_one_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    lock = FolderLock.take(tmp_path / "run")
    with pytest.raises(ConfigError, match="link is in use by process"):
        FolderLock.take(tmp_path / "link")
    lock.release()
    FolderLock.take(tmp_path / "link").release()


def test_a_holder_that_has_not_written_its_name_yet_is_waited_for(tmp_path: Path) -> None:
    """Two runs that start at the same moment: the second still names the holder."""
    path = tmp_path / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    name = json.dumps(asdict(Holder.here())).encode()
    later = threading.Timer(0.2, os.pwrite, (descriptor, name, 0))
    later.start()
    try:
        with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} on"):
            FolderLock.take(tmp_path)
        path.write_bytes(b"")
        with pytest.raises(ConfigError, match="in use by another process"):
            FolderLock.take(tmp_path)
    finally:
        later.join()
        os.close(descriptor)

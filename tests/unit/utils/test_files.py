from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.disk import Disk

from esper.errors import CheckpointError, EsperError
from esper.utils.files import (
    Content,
    Files,
    commit_folder,
    discard_folder,
    is_leftover,
    remove_stale,
    write_bytes_atomic,
    write_json_atomic,
)
from esper.utils.manifest import verify_folder

OLD = {"state.json": b"{}", "model.bin": b"old" * 100}
NEW: dict[str, Content] = {
    "state.json": b"[]",
    "model.bin": lambda path: path.write_bytes(b"new" * 100) and None,
}


def naive_commit(final: Path, files: dict[str, Content], *, io: Files) -> Path:
    """The negative control: the same files, written in place."""
    final.mkdir(exist_ok=True)
    try:
        for name, content in files.items():
            io.write(final / name, content)
            io.fsync(final / name)
    except OSError as error:
        raise CheckpointError(str(error)) from error
    return final


Commit = Callable[..., Path]


def faults(tmp_path: Path, commit: Commit, name: str, code: int) -> list[str]:
    """Break every call of a commit in turn; what was wrong after any of them."""
    wrong = []
    for k in range(1, 1000):
        parent = tmp_path / f"{name}-{k}-{code}"
        commit_folder(parent / "one", OLD)
        io = Disk(k, code)
        try:
            commit(parent / name, NEW, io=io)
            if io.fired:
                wrong.append(f"{k}: silent")
        except EsperError as error:
            if os.strerror(code) not in str(error) or name not in str(error):
                wrong.append(f"{k}: unclear: {error}")
        if not io.fired:
            return wrong
        remove_stale(parent)
        for folder in parent.iterdir():
            try:
                verify_folder(folder)
            except CheckpointError as error:
                wrong.append(f"{k}: {error}")
        if not (parent / "one").exists():
            wrong.append(f"{k}: the previous one is gone")
    raise AssertionError("the injector never ran out of calls")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["two", "one"])
def test_every_failing_call_leaves_whole_folders(tmp_path: Path, name: str, code: int) -> None:
    """Mkdir, write, fsync and rename fail at every k, for a new folder and for one that is replaced."""
    assert faults(tmp_path, commit_folder, name, code) == []


def test_the_fault_harness_sees_a_naive_writer(tmp_path: Path) -> None:
    """Negative control: a commit that is not atomic is found."""
    assert faults(tmp_path, naive_commit, "two", errno.ENOSPC) != []


def out_of_order(calls: list[tuple[str, Path]], final: Path) -> list[str]:
    """What is wrong with the order of the calls that made `final`."""
    wrong = []
    made = max((i for i, call in enumerate(calls) if call == ("rename", final)), default=len(calls))
    for i, (kind, path) in enumerate(calls):
        if kind == "write" and ("fsync", path) not in calls[i:made]:
            wrong.append(f"{path.name} is not on the disk before the rename")
    folder = next(path.parent for kind, path in calls if kind == "write")
    if ("fsync_dir", folder) not in calls[:made]:
        wrong.append("the folder is not on the disk before the rename")
    if calls[made + 1 :] != [("fsync_dir", final.parent)]:
        wrong.append("the rename is not on the disk")
    return wrong


def test_order_of_calls(tmp_path: Path) -> None:
    """Write, fsync of each, fsync of the folder, rename, fsync of the parent."""
    for _ in range(2):  # a new folder, then one that is replaced
        io = Disk()
        commit_folder(tmp_path / "a", NEW, io=io)
        assert out_of_order(io.calls, tmp_path / "a") == []
    unsafe = Disk()
    naive_commit(tmp_path / "b", NEW, io=unsafe)
    assert out_of_order(unsafe.calls, tmp_path / "b") != []
    hasty = Disk()
    commit_folder(tmp_path / "c", NEW, io=hasty)
    without_fsync = [call for call in hasty.calls if call[0] != "fsync"]
    assert len(out_of_order(without_fsync, tmp_path / "c")) == 3
    early = [hasty.calls[-2], *hasty.calls[:-2], hasty.calls[-1]]
    assert len(out_of_order(early, tmp_path / "c")) > 3


def test_new_parents_are_durable_too(tmp_path: Path) -> None:
    io = Disk()
    commit_folder(tmp_path / "run" / "checkpoints" / "one", NEW, io=io)
    assert io.calls[:4] == [
        ("mkdir", tmp_path / "run"),
        ("fsync_dir", tmp_path),
        ("mkdir", tmp_path / "run" / "checkpoints"),
        ("fsync_dir", tmp_path / "run"),
    ]


def test_replaced_folder_holds_the_new_files_only(tmp_path: Path) -> None:
    commit_folder(tmp_path / "one", {**OLD, "extra.bin": b"x"})
    commit_folder(tmp_path / "one", NEW)
    assert set(verify_folder(tmp_path / "one")) == {"state.json", "model.bin"}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "manifest.json", "", ".", ".hidden", "a\0b", "ü" * 2])
def test_only_plain_names_are_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="not a valid file name"):
        commit_folder(tmp_path / "one", {name: b""})
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def writer(path: Path) -> None:
        path.write_bytes(b"some")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        commit_folder(tmp_path / "one", {"a": writer})
    assert list(tmp_path.iterdir()) == []


def test_remove_stale_clears_leftovers_and_nothing_else(tmp_path: Path) -> None:
    commit_folder(tmp_path / "one", OLD)
    (tmp_path / ".tmp-two-0123abcd").mkdir()
    (tmp_path / ".tmp-two-0123abcd" / "model.bin").write_bytes(b"half")
    (tmp_path / ".tmp-summary.json-0123abcd").write_bytes(b"half")
    (tmp_path / ".old-one-0123abcd").mkdir()
    for mine in (".tmp-notes", ".old-x", "tmp-two-0123abcd"):
        (tmp_path / mine).write_bytes(b"")
    cleared = remove_stale(tmp_path)
    assert cleared == [".old-one-0123abcd", ".tmp-summary.json-0123abcd", ".tmp-two-0123abcd"]
    assert {path.name for path in tmp_path.iterdir()} == {"one", ".tmp-notes", ".old-x", "tmp-two-0123abcd"}
    assert remove_stale(tmp_path / "absent") == []


def test_remove_stale_takes_back_what_was_set_aside(tmp_path: Path) -> None:
    """A kill between the two renames of a replacement loses neither name nor content."""
    commit_folder(tmp_path / "one", OLD)
    (tmp_path / "one").rename(tmp_path / ".old-one-0123abcd")
    assert is_leftover(tmp_path / ".old-one-0123abcd")
    assert remove_stale(tmp_path) == []
    verify_folder(tmp_path / "one")


def test_discard_folder(tmp_path: Path) -> None:
    commit_folder(tmp_path / "one", OLD)
    discard_folder(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="one could not be removed"):
        discard_folder(tmp_path / "one")


def test_json_and_bytes_are_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "summary.json"
    write_json_atomic(path, {"a": [1, 2.5, None]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    2.5,\n    null\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    for k in range(1, 5):
        before = path.read_bytes()
        io = Disk(k)
        with pytest.raises(OSError, match="No space"):
            write_bytes_atomic(path, b"new", io=io)
        assert io.fired
        # only the last fsync comes after the rename
        assert path.read_bytes() == (b"new" if k == 4 else before)
        assert list(path.parent.iterdir()) == [path]


def save_for_ever(commit: Commit, parent: Path, acknowledge: int) -> None:
    block = os.urandom(1 << 20)
    for i in range(1, 10_000):
        commit(parent / f"save-{i:04d}", {"a.bin": block, "b.bin": block[::-1]}, io=Files())
        os.write(acknowledge, b"%04d" % i)


def kill_while_saving(commit: Commit, parent: Path, after_s: float) -> int:
    """SIGKILL a process that saves back to back; the number of its last acknowledged save."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            save_for_ever(commit, parent, writer)
        finally:
            os._exit(1)
    os.close(writer)
    os.read(reader, 4)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rest = b""
    while chunk := os.read(reader, 4096):
        rest += chunk
    os.close(reader)
    return int(rest[-4:] or b"1")


def killed(tmp_path: Path, commit: Commit, kills: int) -> tuple[int, int]:
    """How many folders were incomplete, and how many kills hit a save."""
    torn = in_save = 0
    draw = random.Random(0)
    for k in range(kills):
        parent = tmp_path / str(k)
        parent.mkdir()
        last = kill_while_saving(commit, parent, draw.uniform(0, 0.02))
        in_save += len(list(parent.iterdir())) > last
        remove_stale(parent)
        saved = sorted(parent.iterdir())
        assert len(saved) >= last, "an acknowledged save is gone"
        for folder in saved:
            try:
                verify_folder(folder)
            except CheckpointError:
                torn += 1
    return torn, in_save


def test_killed_in_mid_save(tmp_path: Path) -> None:
    """No incomplete folder, no acknowledged save lost, no leftover; a naive writer is detected."""
    torn, in_save = killed(tmp_path / "safe", commit_into(tmp_path / "safe", commit_folder), 20)
    assert torn == 0
    assert in_save >= 5
    torn, _ = killed(tmp_path / "naive", commit_into(tmp_path / "naive", naive_commit), 5)
    assert torn >= 1


def commit_into(parent: Path, commit: Commit) -> Commit:
    parent.mkdir()
    return commit


class MadeMeanwhile(Files):
    """Another one makes the folder, or a file of its name, just before this one does."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fired = 0

    def mkdir(self, path: Path) -> None:
        self.fired += 1
        path.mkdir() if self.kind == "folder" else path.touch()
        super().mkdir(path)


def test_a_folder_that_another_makes_meanwhile_is_taken(tmp_path: Path) -> None:
    io = MadeMeanwhile("folder")
    write_bytes_atomic(tmp_path / "a" / "b" / "file", b"x", io=io)
    assert io.fired == 2
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"
    with pytest.raises(FileExistsError):
        write_bytes_atomic(tmp_path / "c" / "file", b"x", io=MadeMeanwhile("file"))

"""The socket's folder is the user's alone, and short enough; the run folder says where it is."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from esper.control.socket_path import (
    ADDRESS_FILE,
    LONGEST_PATH_BYTES,
    ControlAddress,
    read_address,
    render_address,
    socket_path,
)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytest's own folders may be too long for a socket."""
    return tmp_path_factory.mktemp("s")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_users_runtime_folder_comes_first(short: Path) -> None:
    path = socket_path({"XDG_RUNTIME_DIR": str(short)}, Path("/nowhere"))
    assert path.parent == short / "esper" and mode(path.parent) == 0o700
    assert path != socket_path({"XDG_RUNTIME_DIR": str(short)}, Path("/nowhere"))


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere", "/proc"])
def test_else_a_folder_of_the_users_in_the_temp_folder(short: Path, runtime: str) -> None:
    path = socket_path({"XDG_RUNTIME_DIR": runtime}, short)
    assert path.parent == short / f"esper-{os.getuid()}" and mode(path.parent) == 0o700
    assert socket_path({}, short).parent == path.parent


def test_a_folder_that_others_could_have_made_is_refused(short: Path) -> None:
    """The temp folder is everybody's: a link or an open folder may be a trap."""
    mine = short / f"esper-{os.getuid()}"
    (short / "trap").mkdir(mode=0o700)
    mine.symlink_to(short / "trap")
    with pytest.raises(OSError, match="it is a link"):
        socket_path({}, short)
    assert list((short / "trap").iterdir()) == []
    mine.unlink()
    mine.write_text("")
    with pytest.raises(OSError, match="a link or a file"):
        socket_path({}, short)
    mine.unlink()
    mine.mkdir()
    mine.chmod(0o750)
    with pytest.raises(OSError, match=r"others may use it.*0750, expected 0700"):
        socket_path({}, short)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(short: Path) -> None:
    mine = short / f"esper-{os.getuid()}"
    mine.mkdir(mode=0o700)
    os.chown(mine, 12345, -1)
    with pytest.raises(OSError, match="belongs to user 12345"):
        socket_path({}, short)


def test_a_path_that_no_socket_can_have_is_refused_and_the_next_place_taken(short: Path) -> None:
    long = short / ("x" * LONGEST_PATH_BYTES)
    long.mkdir()
    assert socket_path({"XDG_RUNTIME_DIR": str(long)}, short).is_relative_to(short / f"esper-{os.getuid()}")
    with pytest.raises(OSError, match=f"longer than {LONGEST_PATH_BYTES} bytes"):
        socket_path({}, long)
    assert list(long.iterdir()) == []


def test_sockets_of_dead_runs_are_swept_and_no_others(short: Path) -> None:
    folder = socket_path({}, short).parent
    kinds = {"dead": False, "alive": True, "young": False}
    kept = []
    for name, listens in kinds.items():
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(folder / f"{name}.sock"))
        if listens:
            server.listen()
        kept.append(server)
        if name != "young":
            os.utime(folder / f"{name}.sock", (time.time() - 999,) * 2)
    kept[0].close()
    socket_path({}, short)
    assert {path.stem for path in folder.iterdir()} == {"alive", "young"}
    for server in kept:
        server.close()


def test_a_note_is_read_back_and_what_is_none_is_none(tmp_path: Path) -> None:
    note = ControlAddress("/x/1.sock", 12, "host")
    (tmp_path / ADDRESS_FILE).write_bytes(render_address(note))
    assert read_address(tmp_path) == note
    for bad in (b"", b"[1]", b'{"socket": "x"}', b'{"socket": "x", "pid": "y", "host": 1}', b"\xff"):
        (tmp_path / ADDRESS_FILE).write_bytes(bad)
        assert read_address(tmp_path) is None
    assert read_address(tmp_path / "absent") is None

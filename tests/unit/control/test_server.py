"""Requests of other processes are answered; malformed requests do no harm."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.control.client import NotListeningError, RequestFailedError, send_request
from esper.control.protocol import REQUEST_LIMIT_BYTES, decode, encode
from esper.control.server import ControlServer
from esper.control.socket_path import ControlAddress, read_address


class Actions:
    """The actions of a run, which count their calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.saved: Future[str] = Future()

    def status(self) -> dict[str, Any]:
        self.calls += 1
        return {"calls": self.calls, "seeds": ["s" * 50] * 5000}

    def checkpoint(self) -> Future[str]:
        return self.saved

    def stop(self) -> dict[str, Any]:
        raise ValueError("it cannot stop")


class Open:
    """A server with its actions and its address."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.actions = Actions()
        methods = (self.actions.status, self.actions.checkpoint, self.actions.stop)
        self.server = ControlServer({method.__name__: method for method in methods}, **options)
        self.path = folder / "s"
        self.server.start(self.path, folder)
        note = read_address(folder)
        assert note is not None
        self.note = note

    def raw(self, request: bytes, *, half_close: bool = True) -> bytes:
        """What comes back for bytes that may be no request."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.path))
            try:
                connection.sendall(request)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(65536), b""))
            except (BrokenPipeError, ConnectionResetError):
                return b""

    def alive(self) -> bool:
        return "calls" in send_request(self.note, "status", timeout_s=10)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def listening(short: Path) -> Iterator[Open]:
    opened = Open(short, request_timeout_s=0.5, answer_timeout_s=5.0)
    yield opened
    opened.server.close()


def test_a_command_is_answered_and_an_error_reported(listening: Open) -> None:
    assert send_request(listening.note, "status", timeout_s=5)["calls"] == 1
    assert send_request(listening.note, "status", timeout_s=5)["calls"] == 2
    with pytest.raises(RequestFailedError, match="it cannot stop"):
        send_request(listening.note, "stop", timeout_s=5)
    with pytest.raises(
        RequestFailedError, match="command is 'fly'; expected one of status, checkpoint, stop"
    ):
        send_request(listening.note, "fly", timeout_s=5)


def test_only_the_user_may_use_the_socket_and_it_goes_with_the_server(short: Path) -> None:
    threads = threading.active_count()
    listening = Open(short)
    assert stat.S_IMODE(listening.path.stat().st_mode) == 0o600
    assert (listening.note.pid, listening.note.socket) == (os.getpid(), str(listening.path))
    assert threading.active_count() == threads + 1
    listening.server.close()
    assert list(short.iterdir()) == []
    assert threading.active_count() == threads
    listening.server.close()
    with pytest.raises(NotListeningError, match=f"process {os.getpid()} ended without closing"):
        send_request(listening.note, "status", timeout_s=5)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_refused() -> None:
    """Also where somebody has opened folder and socket to all."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        listening = Open(Path(folder))
        listening.path.chmod(0o666)
        code = "import os, socket; os.setuid(12345); s = socket.socket(socket.AF_UNIX); "
        code += f"s.connect({str(listening.path)!r}); s.sendall({encode({'command': 'status'})!r}); "
        code += "print(s.recv(999).decode())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
        assert "this run is user 0's, not user 12345's" in done.stdout, done.stderr
        assert listening.actions.calls == 0
        listening.server.close()


def test_a_checkpoint_is_answered_when_it_is_durable(listening: Open) -> None:
    threading.Timer(0.3, lambda: listening.actions.saved.set_result("epoch-0007")).start()
    began = time.monotonic()
    assert send_request(listening.note, "checkpoint", timeout_s=5)["name"] == "epoch-0007"
    assert time.monotonic() - began >= 0.29


def test_a_checkpoint_that_failed_or_takes_too_long_says_so(short: Path) -> None:
    listening = Open(short, answer_timeout_s=0.2)
    with pytest.raises(RequestFailedError, match=r"not done within 0\.2 s"):
        send_request(listening.note, "checkpoint", timeout_s=5)
    assert listening.actions.saved.cancelled()
    listening.actions.saved = Future()
    listening.actions.saved.set_exception(OSError("no space"))
    with pytest.raises(RequestFailedError, match="no space"):
        send_request(listening.note, "checkpoint", timeout_s=5)
    listening.server.close()


def test_who_waits_when_the_run_ends_is_not_left_hanging(short: Path) -> None:
    listening = Open(short)
    threading.Timer(0.2, listening.server.close).start()
    began = time.monotonic()
    with pytest.raises(RequestFailedError):
        send_request(listening.note, "checkpoint", timeout_s=30)
    assert time.monotonic() - began < 10


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_get_an_error_or_nothing(listening: Open, noise: bytes) -> None:
    for line in listening.raw(noise + b"\n").splitlines():
        assert decode(line)["ok"] is False
    assert listening.alive()


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"{}",
        b"\n",
        b"null\n",
        b'{"command": ["status"]}\n',
        b'{"command": {"status": 1}}\n',
        b"[" * 4000 + b"\n",
        b"x" * (REQUEST_LIMIT_BYTES * 50),
        encode({"command": "s" * (REQUEST_LIMIT_BYTES - 20)}),
        encode({"command": "fly"}) * 50,
    ],
)
def test_nonsense_and_floods_are_refused(listening: Open, request_: bytes) -> None:
    for line in listening.raw(request_).splitlines():
        assert decode(line)["ok"] is False
    assert listening.actions.calls == 0
    assert listening.alive()


def slow_clients(listening: Open, count: int) -> list[socket.socket]:
    """Clients that say nothing, never end their line, or never read."""
    slow = []
    for n in range(count):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(listening.path))
        if n % 3 == 1:
            connection.sendall(b'{"command": ')
        if n % 3 == 2:
            connection.sendall(encode({"command": "status"}))  # and never reads the answer
        slow.append(connection)
    return slow


def test_a_client_that_asks_at_once_is_answered_while_300_slow_ones_hang_on(short: Path) -> None:
    listening = Open(short, request_timeout_s=60.0)
    slow: list[socket.socket] = []
    for _ in range(3):
        slow += slow_clients(listening, 100)
        began = time.monotonic()
        assert send_request(listening.note, "status", timeout_s=5)
        assert time.monotonic() - began < 2.5
    assert listening.server.clients <= 130  # their number is bounded
    for connection in slow:
        connection.close()
    listening.server.close()


def test_a_slow_client_is_left_at_its_deadline(listening: Open) -> None:
    slow = slow_clients(listening, 9)
    end = time.monotonic() + 10
    while listening.server.clients and time.monotonic() < end:
        time.sleep(0.02)
    assert listening.server.clients == 0
    for connection in slow:
        connection.close()


def test_so_many_may_wait_for_a_checkpoint_and_the_others_are_answered(short: Path) -> None:
    listening = Open(short)
    waiting = []
    for _ in range(33):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(listening.path))
        connection.sendall(encode({"command": "checkpoint"}))
        waiting.append(connection)
    waiting[-1].settimeout(10)
    assert "32 others are waiting" in decode(waiting[-1].recv(999))["error"]
    assert send_request(listening.note, "status", timeout_s=5)
    for connection in waiting:
        connection.close()
    listening.server.close()


@pytest.mark.parametrize(
    ("note", "error", "message"),
    [
        (ControlAddress("/nowhere/s", 7, "elsewhere"), NotListeningError, "on host elsewhere"),
        (ControlAddress("/nowhere/s", 7, ""), NotListeningError, "nobody listens"),
        (ControlAddress("/etc/hostname", 7, ""), RequestFailedError, "is no socket"),
        (ControlAddress("a\0b", 7, ""), NotListeningError, "nobody listens"),
    ],
)
def test_a_note_that_leads_nowhere(note: ControlAddress, error: type[Exception], message: str) -> None:
    here = note if note.host else ControlAddress(note.socket, note.pid, socket.gethostname())
    with pytest.raises(error, match=message):
        send_request(here, "status", timeout_s=1)


def silent(short: Path, answer: bytes) -> ControlAddress:
    """A listener that answers with these bytes, whatever it is calls, and then with nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(short / "s"))
    listener.listen()

    def work() -> None:
        connection, _ = listener.accept()
        connection.sendall(answer)
        time.sleep(0.6)
        connection.close()
        listener.close()

    threading.Thread(target=work).start()
    return ControlAddress(str(short / "s"), 7, socket.gethostname())


@pytest.mark.parametrize(
    "answer", [b"", b'{"ok": true', b"[]\n", b'{"ok": true}\n', b'{"ok": 1, "result": {}}\n']
)
def test_an_answer_that_is_none(short: Path, answer: bytes) -> None:
    with pytest.raises(RequestFailedError, match="process 7"):
        send_request(silent(short, answer), "status", timeout_s=0.3)


def test_a_socket_that_cannot_be_made_leaves_nothing(short: Path) -> None:
    threads = threading.active_count()
    for place in (short / "absent" / "s", short / ("x" * 200)):
        with pytest.raises(OSError):
            ControlServer({}).start(place, short)
    (short / "file").write_text("")
    with pytest.raises(OSError):
        ControlServer({}).start(short / "s", short / "file")
    assert [path.name for path in short.iterdir()] == ["file"]
    assert threading.active_count() == threads


def test_a_status_is_one_line(listening: Open) -> None:
    raw = listening.raw(encode({"command": "status"}))
    assert raw.endswith(b"\n") and raw.count(b"\n") == 1
    assert json.loads(raw)["ok"] is True

"""The client: sends a command to a run; a run that has ended differs from one that does not reply."""

from __future__ import annotations

import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper.control.protocol import REPLY_LIMIT_BYTES, decode, encode
from esper.control.socket_path import LONGEST_PATH_BYTES, ControlAddress
from esper.errors import EsperError

# How soon it is tried again where too many are waiting to be accepted.
_QUEUE_POLL_S = 0.01


class NotListeningError(EsperError):
    """The run of this address no longer listens."""


class RequestFailedError(EsperError):
    """The run is there, but rejects the request, or its reply is missing or malformed."""


def send_request(note: ControlAddress, command: str, *, timeout_s: float) -> dict[str, Any]:
    """Send a command to a run and return its result.

    Raises:
        NotListeningError: the run has ended, or is on another host.
        RequestFailedError: the run answers with an error or not within `timeout_s`, or the socket belongs to
            another user.
    """
    # not by its host's name: that may have changed since, and a socket answers only where its run is
    _check_socket(note)
    try:
        reply = decode(_exchange(note.socket, encode({"command": command}), timeout_s))
    except (ConnectionRefusedError, FileNotFoundError):
        raise NotListeningError(_gone(note)) from None
    except TimeoutError:
        raise RequestFailedError(f"process {note.pid} has not answered within {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        raise RequestFailedError(f"process {note.pid} gave no answer: {error}") from error
    if reply.get("ok") is not True or not isinstance(reply.get("result"), dict):
        raise RequestFailedError(f"process {note.pid} answered: {reply.get('error')}")
    result: dict[str, Any] = reply["result"]
    return result


def _gone(note: ControlAddress) -> str:
    here = socket.gethostname()
    if note.host != here:
        return (
            f"process {note.pid} was started on host {note.host}, this is {here}: nobody listens here at "
            f"{note.socket}; ask it there, if it still runs"
        )
    return f"process {note.pid} ended without closing the run; nobody listens at {note.socket}"


def _check_socket(note: ControlAddress) -> None:
    try:
        found = Path(note.socket).lstat()
    except (OSError, ValueError):
        raise NotListeningError(_gone(note)) from None
    if not stat.S_ISSOCK(found.st_mode) or len(os.fsencode(note.socket)) > LONGEST_PATH_BYTES:
        raise RequestFailedError(f"{note.socket} is no socket of a run")
    if found.st_uid != os.getuid():
        raise RequestFailedError(f"{note.socket} belongs to user {found.st_uid}, you are {os.getuid()}")


def _exchange(path: str, request: bytes, timeout_s: float) -> bytes:
    end = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _connect(connection, path, end)
        with suppress(BrokenPipeError):  # answered, maybe, before all of it was read
            connection.sendall(request)
        received = bytearray()
        while not received.endswith(b"\n"):
            connection.settimeout(max(end - time.monotonic(), 0.001))
            part = connection.recv(65536)
            if not part or len(received) > REPLY_LIMIT_BYTES:
                raise ValueError("the answer ends before its end" if not part else "the answer is too long")
            received += part
        return bytes(received)


def _connect(connection: socket.socket, path: str, end: float) -> None:
    """Connect before `end` (`time.monotonic`), also while the queue of the run's socket is full."""
    while True:
        connection.settimeout(max(end - time.monotonic(), 0.001))
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError from None
            time.sleep(_QUEUE_POLL_S)

"""The server: a thread of the run that answers requests of other processes, whatever they send."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from esper.control.protocol import REQUEST_LIMIT_BYTES, decode, encode
from esper.control.socket_path import ADDRESS_FILE, ControlAddress, render_address
from esper.utils.files import write_bytes_atomic
from esper.utils.lock import closed_in_children

_log = logging.getLogger("esper.control")

# What a command leads to: a result at once, or the name of something that is still to be made.
Result = Mapping[str, Any] | Future[str]

# Of clients that are slow to ask or to read, the oldest is dropped once there are more than this. A client
# that asks at once has been read before so many others are accepted: a turn of the loop accepts only a few.
_MOST_SLOW = 128
_ACCEPTED_AT_ONCE = 16
_QUEUE = 1024  # how many may wait to be accepted; where the system allows fewer, clients ask again
# How many may wait for what is still to be made, such as a checkpoint.
_MOST_WAITING = 32
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class ControlServer:
    """Answers commands by `actions`, which are called on the server's own thread, until it is closed.

    One request to a connection. Clients of other users are refused; one that sends too much, too slowly or
    nonsense gets an error or no answer, and the others wait for none of it: however many are slow, a client
    that asks at once is answered at once. `close` removes the socket.
    """

    def __init__(
        self,
        actions: Mapping[str, Callable[[], Result]],
        *,
        request_timeout_s: float = 5.0,
        answer_timeout_s: float = 600.0,
    ) -> None:
        self._actions = dict(actions)
        self._request_timeout_s = request_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._owned = ExitStack()
        self._clients: set[asyncio.Task[None]] = set()
        self._slow: dict[asyncio.Task[None], None] = {}  # in the order in which they came
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def start(self, path: Path, run_dir: Path) -> None:
        """Listen at `path` and note it in the run folder. Raises `OSError`; nothing is left then."""
        ready = threading.Event()
        with ExitStack() as owned:
            listener = owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            owned.enter_context(closed_in_children(listener.fileno()))
            thread = threading.Thread(
                target=lambda: asyncio.run(self._listen(listener, ready)), name="esper-remote", daemon=True
            )
            owned.callback(self._end, thread)  # after the two below, so that no client finds a closing server
            listener.bind(str(path))
            owned.callback(path.unlink, missing_ok=True)
            path.chmod(0o600)  # before it listens: until then no client can connect
            listener.listen(_QUEUE)
            note = run_dir / ADDRESS_FILE
            write_bytes_atomic(
                note, render_address(ControlAddress(str(path), os.getpid(), socket.gethostname()))
            )
            owned.callback(_remove, note)
            thread.start()
            ready.wait()
            self._owned = owned.pop_all()

    @property
    def clients(self) -> int:
        """How many are being answered."""
        return len(self._clients)

    def close(self) -> None:
        """Answer what has been asked, for at most a second, and remove the socket and its note."""
        self._owned.close()

    def _end(self, thread: threading.Thread) -> None:
        if self._loop is None:
            return
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._ended.set)
        thread.join(timeout=3.0)

    async def _listen(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda loop, context: _log.debug("remote control: %s", context))
        server = await asyncio.start_unix_server(
            self._handle_client, sock=listener, limit=REQUEST_LIMIT_BYTES, backlog=_ACCEPTED_AT_ONCE
        )
        listener.listen(_QUEUE)  # asyncio takes one number for the queue and for what it accepts in a turn
        ready.set()
        await self._ended.wait()
        server.close()
        if self._clients:
            await asyncio.wait(self._clients, timeout=1.0)

    async def _handle_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            _log.debug("a client was left: %s", error)
        finally:
            with suppress(AttributeError):  # how asyncio says that the connection is closed already
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # read in any case: who is answered before it has asked may not hear the answer
        async with self._client_deadline():
            try:
                line = await reader.readline()
            except ValueError:
                line = b" " * REQUEST_LIMIT_BYTES
        if problem := self._rejection(writer, line):
            reply: Mapping[str, Any] = {"ok": False, "error": problem}
        else:
            reply = await self._reply(line)
        async with self._client_deadline():
            writer.write(encode(reply))
            writer.close()
            await writer.wait_closed()

    @asynccontextmanager
    async def _client_deadline(self) -> AsyncIterator[None]:
        """What depends on how fast the client is: it has a deadline, and ends where too many are slow."""
        task = asyncio.current_task()
        assert task is not None
        self._slow[task] = None
        if len(self._slow) > _MOST_SLOW:
            oldest = next(iter(self._slow))
            del self._slow[oldest]
            oldest.cancel()
        try:
            async with asyncio.timeout(self._request_timeout_s):
                yield
        finally:
            self._slow.pop(task, None)

    def _rejection(self, writer: asyncio.StreamWriter, line: bytes) -> str:
        if len(line) >= REQUEST_LIMIT_BYTES:
            return f"a request of more than {REQUEST_LIMIT_BYTES} bytes"
        uid = _user_of(writer.get_extra_info("socket"))
        return "" if uid in (None, os.getuid()) else f"this run is user {os.getuid()}'s, not user {uid}'s"

    async def _reply(self, line: bytes) -> Mapping[str, Any]:
        try:
            command = decode(line).get("command")
        except ValueError as error:
            return {"ok": False, "error": f"a request that is no line of JSON: {error}"}
        action = self._actions.get(command) if isinstance(command, str) else None
        if action is None:
            known = ", ".join(self._actions)
            return {"ok": False, "error": f"command is {command!r:.80}; expected one of {known}"}
        return await self._execute(action)

    async def _execute(self, action: Callable[[], Result]) -> Mapping[str, Any]:
        try:
            answer = action()
            if isinstance(answer, Future):
                name = await self._await_result(answer)
                answer = {"name": name, "said": f"saved {name}"}
            return {"ok": True, "result": dict(answer)}
        except TimeoutError:
            return {"ok": False, "error": f"not done within {self._answer_timeout_s:g} s"}
        except Exception as error:  # noqa: BLE001 - the client gets it as an error, and must not reach the run
            return {"ok": False, "error": str(error) or type(error).__name__}

    async def _await_result(self, answer: Future[str]) -> str:
        if self._waiting >= _MOST_WAITING:
            answer.cancel()
            raise RuntimeError(f"{_MOST_WAITING} others are waiting for their answers; try again")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                return await asyncio.wrap_future(answer)
        finally:
            self._waiting -= 1


def _user_of(peer: Any) -> int | None:
    """The user of the client; None if the system cannot report it: then only the socket's mode protects."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    raw = peer.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def _remove(note: Path) -> None:
    with suppress(OSError):  # a note that stays names a socket that is gone, which is understood
        note.unlink(missing_ok=True)

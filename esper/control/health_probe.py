"""Whether the services beside a run answer: HTTP by GET /health, Redis by PING. Standard library only."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

HEALTHY, UNREACHABLE = "healthy", "unreachable"
PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}
# More of a response is not read: its first line contains the status.
ANSWER_LIMIT_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent to a service, and when its answer is whole."""

    text: bytes
    lines: int | None = None  # None: whole when the other side closes
    tls: bool = False


def probe(url: str, timeout_s: float) -> tuple[str, str]:
    """'healthy', 'unreachable', or 'unhealthy (...)' with HTTP's status or Redis' error word; and why.

    Takes at most `timeout_s`, whatever the other side does, but for the look-up of its name. Follows no
    redirect and uses no proxy. The reason is empty unless the service is unreachable.
    """
    parts = urlsplit(url)
    redis = parts.scheme.startswith("redis")
    request = _ping(parts) if redis else _get_health(parts)
    try:
        answer = _exchange(parts, request, time.monotonic() + timeout_s)
    except TimeoutError:
        return UNREACHABLE, f"no answer within {timeout_s:g} s"
    except (OSError, ValueError) as error:  # ValueError: a host name that no resolver takes
        return UNREACHABLE, (error.strerror if isinstance(error, OSError) else None) or str(error)
    state = _parse_redis_reply(answer) if redis else _parse_http_reply(answer)
    return state, f"it does not speak {'Redis' if redis else 'HTTP'}" if state == UNREACHABLE else ""


class ServiceProbes:
    """The state of several services, asked in parallel, and not more often than every `interval_s`.

    `urls` maps names to addresses. `clock` counts seconds and never goes back.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        timeout_s: float,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = dict(urls)
        self._timeout_s = timeout_s
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._checked_at: float | None = None
        self._results: dict[str, tuple[str, str]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self.last_check: float | None = None

    def check(self) -> dict[str, str]:
        """The services' states by name, at most `interval_s` old; takes at most a little over the time-out.

        `last_check` then says when they were asked, in seconds since 1970.
        """
        with self._lock:
            now = self._clock()
            if self._checked_at is None or now - self._checked_at >= self._interval_s:
                self._probe_all()
                self._checked_at, self.last_check = now, time.time()
            return {name: state for name, (state, _) in self._results.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """Why a service was unreachable at the last check, by name."""
        return {name: reason for name, (_, reason) in self._results.items() if reason}

    def _probe_all(self) -> None:
        found: dict[str, tuple[str, str]] = {}
        for name in self._urls:
            # one that hangs in the look-up of a name is not joined by a second
            if name not in self._threads or not self._threads[name].is_alive():
                self._threads[name] = self._start(name, found)
        end = time.monotonic() + self._timeout_s + 0.5
        for thread in self._threads.values():
            thread.join(max(0.0, end - time.monotonic()))
        late = (UNREACHABLE, f"no answer within {self._timeout_s:g} s")
        self._results = {name: found.get(name, late) for name in self._urls}

    def _start(self, name: str, found: dict[str, tuple[str, str]]) -> threading.Thread:
        def work() -> None:
            found[name] = probe(self._urls[name], self._timeout_s)

        thread = threading.Thread(target=work, name=f"esper-probe-{name}", daemon=True)
        thread.start()
        return thread


def _get_health(parts: SplitResult) -> Request:
    path = quote(parts.path.rstrip("/"), safe="/%")
    host = parts.netloc.rpartition("@")[2]
    lines = (f"GET {path}/health HTTP/1.1", f"Host: {host}", "User-Agent: esper", "Connection: close", "", "")
    return Request("\r\n".join(lines).encode(), tls=parts.scheme == "https")


def _ping(parts: SplitResult) -> Request:
    words = [["PING"]]
    if parts.password:
        words.insert(
            0, ["AUTH", *([unquote(parts.username)] if parts.username else []), unquote(parts.password)]
        )
    text = b"".join(_command(command) for command in words)
    return Request(text, lines=len(words), tls=parts.scheme == "rediss")


def _command(words: list[str]) -> bytes:
    """A command in Redis' own form: the number of words, then each with its length."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def _exchange(parts: SplitResult, request: Request, deadline: float) -> bytes:
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    with _connect(host, port, deadline) as plain:
        plain.settimeout(_left(deadline))
        wrapped = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=host) if request.tls else plain
        )
        with wrapped as sock:
            sock.settimeout(_left(deadline))
            sock.sendall(request.text)
            return _read(sock, request.lines, deadline)


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to the first address of the host that takes one, the deadline shared by all of them."""
    problem = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
        else:
            return sock
    raise problem


def _read(sock: socket.socket, lines: int | None, deadline: float) -> bytes:
    answer = b""
    try:
        while len(answer) < ANSWER_LIMIT_BYTES and (lines is None or answer.count(b"\r\n") < lines):
            sock.settimeout(_left(deadline))
            piece = sock.recv(4096)
            if not piece:
                break
            answer += piece
    except OSError:
        # a body that never ends takes nothing from a first line that is there
        if b"\r\n" not in answer:
            raise
    return answer


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for this probe is over")
    return left


def _parse_http_reply(answer: bytes) -> str:
    version, _, rest = answer.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/") or not (status.isascii() and status.isdigit()):
        return UNREACHABLE
    return HEALTHY if 200 <= int(status) < 300 else f"unhealthy (HTTP {int(status)})"


def _parse_redis_reply(answer: bytes) -> str:
    words = answer.decode("latin-1").split("\r\n")[:-1]
    refused = next((word for word in words if word.startswith("-")), None)
    if refused is not None:
        return f"unhealthy ({refused[1:].partition(' ')[0]})"
    return HEALTHY if words and words[-1] == "+PONG" else UNREACHABLE

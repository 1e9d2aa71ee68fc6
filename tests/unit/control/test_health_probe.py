"""Services are asked in parallel, for a bounded time, and not more often than is useful."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from helpers.services import Behaviour, free_port, hang, http_service, say, tcp_service, trickle
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.control import health_probe
from esper.control.health_probe import ServiceProbes


def probe(url: str, timeout_s: float) -> str:
    """The state of a service, without the reason."""
    return health_probe.probe(url, timeout_s)[0]


def probe_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("esper-probe")]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "healthy"),
        (204, "healthy"),
        (302, "unhealthy (HTTP 302)"),
        (404, "unhealthy (HTTP 404)"),
        (500, "unhealthy (HTTP 500)"),
    ],
)
def test_http_services_are_judged_by_their_status(status: int, expected: str) -> None:
    asked: list[str] = []
    with http_service(status, asked) as url:
        assert probe(f"{url}/base/", timeout_s=5) == expected
    assert asked == ["/base/health"]  # no redirect is followed


def test_a_closed_port_is_unreachable() -> None:
    assert probe(f"http://127.0.0.1:{free_port()}", timeout_s=5) == "unreachable"
    assert probe(f"redis://127.0.0.1:{free_port()}", timeout_s=5) == "unreachable"


@pytest.mark.parametrize("behaviour", [hang, trickle])
@pytest.mark.parametrize("scheme", ["http", "redis"])
def test_neither_silence_nor_a_trickle_outlasts_the_time_out(behaviour: Behaviour, scheme: str) -> None:
    with tcp_service(behaviour) as (host, port):
        began = time.monotonic()
        assert probe(f"{scheme}://{host}:{port}", timeout_s=0.3) == "unreachable"
        assert 0.2 < time.monotonic() - began < 1.0


def test_a_body_that_never_ends_does_not_take_back_a_good_status() -> None:
    with tcp_service(say(b"HTTP/1.1 200 OK\r\n\r\n...")) as (host, port):
        assert probe(f"http://{host}:{port}", timeout_s=0.3) == "healthy"


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 oops\r\n", b"\r\n\r\n", b"HTTP/1.1"])
def test_what_does_not_speak_http_is_unreachable(answer: bytes) -> None:
    with tcp_service(say(answer)) as (host, port):
        assert probe(f"http://{host}:{port}", timeout_s=0.3) == "unreachable"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"+PONG\r\n", "healthy"),
        (b"-NOAUTH Authentication required.\r\n", "unhealthy (NOAUTH)"),
        (b"hello\r\n", "unreachable"),
    ],
)
def test_redis_is_asked_by_ping(answer: bytes, expected: str) -> None:
    with tcp_service(say(answer)) as (host, port):
        assert probe(f"redis://{host}:{port}/0", timeout_s=1) == expected


def test_redis_gets_the_password_first() -> None:
    heard: list[bytes] = []

    def redis(connection: socket.socket, over: threading.Event) -> None:
        heard.append(connection.recv(4096))
        connection.sendall(b"+OK\r\n+PONG\r\n")

    with tcp_service(redis) as (host, port):
        assert probe(f"redis://me:p%40ss@{host}:{port}", timeout_s=1) == "healthy"
    assert heard == [b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$4\r\np@ss\r\n*1\r\n$4\r\nPING\r\n"]


@given(st.binary(max_size=200))
@settings(max_examples=25)
def test_no_answer_whatever_makes_a_probe_raise(answer: bytes) -> None:
    def blurt(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(answer)

    with tcp_service(blurt) as (host, port):
        for scheme in ("http", "redis"):
            state = probe(f"{scheme}://{host}:{port}", timeout_s=0.5)
            assert state in ("healthy", "unreachable") or state.startswith("unhealthy (")


def test_services_are_asked_in_parallel_and_the_threads_end() -> None:
    with tcp_service(hang) as (host, port), http_service() as good:
        urls = dict.fromkeys(("a", "b", "c"), f"http://{host}:{port}") | {"good": good}
        began = time.monotonic()
        states = ServiceProbes(urls, timeout_s=0.4, interval_s=30).check()
        assert time.monotonic() - began < 0.9  # three in a row would take 1.2 s
    assert states == {"a": "unreachable", "b": "unreachable", "c": "unreachable", "good": "healthy"}
    assert probe_threads() == []


def test_answers_are_kept_for_the_interval() -> None:
    asked: list[str] = []
    now = [100.0]
    with http_service(200, asked) as url:
        probes = ServiceProbes({"a": url}, timeout_s=5, interval_s=30, clock=lambda: now[0])
        assert probes.last_check is None
        assert probes.check() == {"a": "healthy"}
        first = probes.last_check
        now[0] += 29.9
        probes.check()
        assert (len(asked), probes.last_check) == (1, first)
        now[0] += 0.1
        probes.check()
    assert len(asked) == 2
    assert first is not None and probes.last_check is not None and probes.last_check > first


def test_a_service_that_recovers_is_seen_after_the_interval() -> None:
    now, port = [0.0], free_port()
    probes = ServiceProbes(
        {"a": f"http://127.0.0.1:{port}"}, timeout_s=2, interval_s=30, clock=lambda: now[0]
    )
    assert probes.check() == {"a": "unreachable"}
    now[0] = 30.0
    with http_service(port=port):
        assert probes.check() == {"a": "healthy"}


def test_many_callers_at_once_share_one_round_of_questions() -> None:
    asked: list[str] = []
    with http_service(200, asked) as url:
        probes = ServiceProbes({"a": url}, timeout_s=5, interval_s=30)
        threads = [threading.Thread(target=probes.check) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(asked) == 1

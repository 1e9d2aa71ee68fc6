"""Local services that answer correctly, wrongly, slowly or not at all."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[[socket.socket, threading.Event], None]


@contextmanager
def http_service(status: int = 200, requests: list[str] | None = None, port: int = 0) -> Iterator[str]:
    """A server that answers every GET with `status`; the block gets its address. Port 0: any free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if requests is not None:
                requests.append(self.path)
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            """Nothing: pytest's output is for pytest."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server, _serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def tcp_service(behaviour: Behaviour) -> Iterator[tuple[str, int]]:
    """A server that does `behaviour(connection, over)` with each connection; `over` is set at the end."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                behaviour(self.request, over)
            except OSError:
                return  # the client has disconnected

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        try:
            with _serving(server):
                yield "127.0.0.1", server.server_address[1]
        finally:
            over.set()


def hang(connection: socket.socket, over: threading.Event) -> None:
    """Accept the connection and send nothing."""
    over.wait(10)


def trickle(connection: socket.socket, over: threading.Event) -> None:
    """Send bytes all the time, but never a complete line."""
    while not over.wait(0.05):
        connection.sendall(b"H")


def say(answer: bytes) -> Behaviour:
    """Answer every request with the same bytes, and keep the connection open."""

    def behaviour(connection: socket.socket, over: threading.Event) -> None:
        while connection.recv(4096):
            connection.sendall(answer)

    return behaviour


def free_port() -> int:
    """A port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()

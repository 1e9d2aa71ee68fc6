"""A local file server that can simulate faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """`files` by name. `cut_after`: bytes after which each response is cut off; `ranges`: whether Range is
    supported; `status`: returned instead of a file. `requests` collects (name, Range header).
    """

    files: dict[str, bytes]
    cut_after: int | None = None
    ranges: bool = True
    status: int = 200
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(files: dict[str, bytes], **options: Any) -> Iterator[FileServer]:
    """A server on a free port of 127.0.0.1 for as long as the block lasts."""
    state = FileServer(files, **options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, state)

        def log_message(self, *args: Any) -> None:
            """Nothing: pytest's output is for pytest."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def answer(request: BaseHTTPRequestHandler, state: FileServer) -> None:
    name = request.path.lstrip("/")
    wanted = request.headers.get("Range", "")
    state.requests.append((name, wanted))
    content = state.files.get(name)
    begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
    if content is None or state.status != 200:
        return request.send_error(404 if content is None else state.status)
    if begin and begin >= len(content):
        return request.send_error(416)
    rest = content[begin:]
    request.send_response(206 if begin else 200)
    if begin:
        request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(rest)))
    request.end_headers()
    request.wfile.write(rest[: state.cut_after])
    request.close_connection = True
    return None

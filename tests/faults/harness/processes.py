"""Starts processes, sends them signals, and waits for their end, with a deadline to each wait."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TESTS = Path(__file__).resolve().parents[2]
MAIN = "esper.train:main"
# Nothing here takes so long, but on a machine that does much else.
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the number of the signal that ended it."""

    code: int
    out: str
    err: str


class Server:
    """A fork server (see `server`); use as a context manager. `setups` are called before any fork."""

    def __init__(self, folder: Path, *setups: str) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.harness.server", *setups],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=one_thread(),
        )
        self._answer(deadline_s=_PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def start(
        self, *argv: str, call: str = MAIN, arguments: Sequence[Any] = (), cwd: Path | None = None
    ) -> ChildProcess:
        """A process that calls `call` (`module:function`) with `argv` on its command line."""
        self._count += 1
        texts = [self.folder / f"{self._count}.{kind}" for kind in ("out", "err")]
        request = {
            "call": call,
            "argv": argv,
            "arguments": list(arguments),
            "cwd": str(cwd or self.folder),
            "stdout": str(texts[0]),
            "stderr": str(texts[1]),
        }
        return ChildProcess(self, self._ask(request, deadline_s=_PATIENCE_S), *texts)

    def run(self, *argv: str, timeout_s: float = _PATIENCE_S, **options: Any) -> Ended:
        """The same, to its end."""
        return self.start(*argv, **options).wait(timeout_s)

    def reap(self, pid: int, deadline_s: float) -> int:
        return self._ask({"wait": pid}, deadline_s)

    def _ask(self, request: dict[str, Any], deadline_s: float) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        return self._answer(deadline_s)

    def _answer(self, deadline_s: float) -> int:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], deadline_s)[0]:
            raise TimeoutError(f"no answer after {deadline_s:g} s")
        return int(self._process.stdout.readline())


class ChildProcess:
    """One process of a server; as a context manager, it is killed where it still runs at the end."""

    _reaped = False

    def __init__(self, server: Server, pid: int, out: Path, err: Path) -> None:
        self.server = server
        self.pid = pid
        self.out = out
        self.err = err
        self._handle = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._reaped:
            self.kill()

    def until(self, condition: Callable[[], object]) -> None:
        """Return once `condition()` is true; fails where the process ends before."""
        met = False

        def reached() -> bool:
            nonlocal met
            met = bool(condition())
            return met or self.over

        until(reached, 120, every_s=0.01)
        assert met, self.err.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; to a process that is over nothing happens, for its server has not reaped it."""
        os.kill(self.pid, number)

    @property
    def handles_signals(self) -> bool:
        """Whether it has a handler for SIGTERM, as the command has once its first lines have run."""
        return catches_sigterm(self.pid)

    @property
    def over(self) -> bool:
        """Whether it has ended; its server has not reaped it, so its number is still its own."""
        return bool(select.select([self._handle], [], [], 0)[0])

    def wait(self, timeout_s: float = _PATIENCE_S) -> Ended:
        """How it ended. Raises `TimeoutError`, and kills it, where it does not in time."""
        self._reaped = True
        try:
            code = self.server.reap(self.pid, timeout_s)
        except TimeoutError:
            self.send(signal.SIGKILL)
            self.server._answer(10)
            raise
        finally:
            os.close(self._handle)
        return Ended(code, self.out.read_text(), self.err.read_text())

    def kill(self) -> Ended:
        self.send(signal.SIGKILL)
        return self.wait()


def catches_sigterm(pid: int) -> bool:
    """Whether a process, which its parent has not reaped, has a handler for SIGTERM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


def run_command(*argv: str, cwd: Path, timeout_s: float = _PATIENCE_S) -> Ended:
    """The real command, as a user starts it: an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "esper.train", *argv],
        cwd=cwd,
        env=one_thread(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def one_thread() -> dict[str, str]:
    """The environment of every process here; with one thread a fork copies all that there is."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def on_growth(condition: Callable[[], bool], *paths: Path) -> Callable[[], bool]:
    """The condition, asked again only when one of the files has another size: reading them takes long."""
    sizes: list[int] = []

    def asked() -> bool:
        nonlocal sizes
        before, sizes = sizes, [path.stat().st_size if path.exists() else -1 for path in paths]
        return sizes != before and condition()

    return asked


def until(condition: Any, timeout_s: float, every_s: float = 0.001) -> bool:
    """Wait for `condition()`; whether it came true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True

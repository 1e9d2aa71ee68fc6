"""Processes with their own interpreter: the real command is started, not forked."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from faults.harness.processes import MAIN, ChildProcess, Ended, Server, catches_sigterm, one_thread

_CALL = "import sys; from faults.harness.server import called; sys.argv[0] = 'esper-train'; "


class Fresh:
    """Starts processes as a `Server` does, each with a fresh interpreter, in the same folder."""

    def __init__(self, server: Server) -> None:
        self.folder = server.folder

    def start(self, *argv: str, call: str = MAIN) -> FreshProcess:
        """The command, or `call` with this command line for a broken build."""
        code = f"{_CALL}sys.exit(called({call!r}, []))"
        entry = ["-m", "esper.train"] if call == MAIN else ["-c", code]
        return FreshProcess([sys.executable, *entry, *argv], self.folder)

    def run(self, *argv: str, call: str = MAIN) -> Ended:
        """The same, to its end."""
        return self.start(*argv, call=call).wait()


class FreshProcess:
    """One such process."""

    def __init__(self, command: list[str], folder: Path) -> None:
        stamp = f"fresh-{time.monotonic_ns()}"
        self._out, self._err = folder / f"{stamp}.out", folder / f"{stamp}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command, cwd=folder, env=one_thread(), stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.pid = self._process.pid

    @property
    def handles_signals(self) -> bool:
        return catches_sigterm(self.pid)

    @property
    def over(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 300) -> Ended:
        """How it ended; killed where it does not in time."""
        try:
            code = self._process.wait(timeout_s)
        finally:
            self._process.kill()
            self._process.wait()
        return Ended(code, self._out.read_text(), self._err.read_text())

    def kill(self) -> Ended:
        self.send(signal.SIGKILL)
        return self.wait()


Processes = Server | Fresh
AnyProcess = ChildProcess | FreshProcess

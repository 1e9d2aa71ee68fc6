"""R22: a run is killed, and taken up under another host name, as a container is that starts again."""

from __future__ import annotations

import ctypes
import signal
import socket
import time
from pathlib import Path

from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.processes import Ended, Server, until
from faults.harness.revival import Whole, after
from faults.harness.runs import command, events

from esper import train

CALL = "faults.harness.hostnames:run_on"
_CLONE_NEWUTS = 0x04000000


def run_on(host: str) -> int:
    """The command, in a process whose host has this name."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUTS) == 0:
        socket.sethostname(host)
    else:  # without root: what the process itself asks for
        socket.gethostname = lambda: host
    return train.main()


def renamings(server: Server, folder: Path, whole: Whole, budget: Budget, call: str = CALL) -> FaultCounts:
    """R22: a living holder on another host is not disturbed; killed, it is followed."""
    counts = FaultCounts("R22")
    while budget.lasts(counts):
        run = folder / f"renamed-{counts.tries}"
        wrong = _renamed(server, run, whole, budget.draw.uniform(0, whole.span_s / 2), call)
        counts.note(True, [f"renamed {counts.tries}: {sentence}" for sentence in wrong], "taken over")
    return counts


def _renamed(server: Server, run: Path, whole: Whole, delay_s: float, call: str) -> list[str]:
    first = server.start(*command(run), call=call, arguments=["pod-1"])
    until(lambda: events(run) or first.over, timeout_s=30)
    time.sleep(delay_s)
    first.send(signal.SIGSTOP)  # it is there, however long the other one takes
    second = server.run(*command(run), call=call, arguments=["pod-2"])
    killed = first.kill()
    wrong = [] if killed.code == -signal.SIGKILL else ["it had ended before the kill"]
    wrong += _refused(second, f"process {first.pid} on pod-1 ")
    began = time.monotonic()
    done = server.run(*command(run), call=call, arguments=["pod-3"])
    wrong += after(run, done, whole)
    if time.monotonic() - began > 10 + 3 * whole.span_s:
        wrong.append("the free lock was waited for")
    messages = [e["data"]["message"] for e in events(run) if e["name"] == "notice"]
    named = [m for m in messages if f"process {first.pid} on pod-1 " in m and "releasing this" in m]
    return wrong + ([] if len(named) == 1 else [f"the dead holder is named in {len(named)} notices"])


def _refused(ended: Ended, holder: str) -> list[str]:
    wrong = [] if ended.code == 2 else [f"the second run ended with {ended.code}"]
    return wrong + ([] if holder in ended.err else [f"{holder}is not named: {ended.err[-300:]}"])

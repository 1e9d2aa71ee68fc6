"""R20: two runs on one folder."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.processes import MAIN, ChildProcess, Ended, Server, until
from faults.harness.revival import Whole, after
from faults.harness.runs import command, differences, events


def rivalries(server: Server, folder: Path, whole: Whole, budget: Budget, call: str = MAIN) -> FaultCounts:
    """R20: a second run comes while the first is at work, at the same moment, and after it was killed."""
    counts = FaultCounts("R20")
    meetings: list[Callable[..., list[str]]] = [_while_running, _at_once, _after_a_kill]
    while budget.lasts(counts):
        number = counts.tries
        meet = meetings[number % len(meetings)]
        run = folder / f"shared-{number}"
        wrong = meet(server, run, whole, budget.draw, call)
        counts.note(
            True, [f"{meet.__name__[1:]} {number}: {sentence}" for sentence in wrong], meet.__name__[1:]
        )
    return counts


def _while_running(server: Server, run: Path, whole: Whole, draw: random.Random, call: str) -> list[str]:
    first = server.start(*command(run), call=call)
    until(lambda: events(run) or first.over, timeout_s=30)
    time.sleep(draw.uniform(0, whole.span_s / 2))
    first.send(signal.SIGSTOP)  # it is there, however long the other one takes
    second = server.run(*command(run), call=call)
    first.send(signal.SIGCONT)
    ended = first.wait()
    return [*_refused(second, first), *after(run, ended, whole)]


def _at_once(server: Server, run: Path, whole: Whole, draw: random.Random, call: str) -> list[str]:
    processes = [server.start(*command(run), call=call) for _ in range(2)]
    ends = [process.wait() for process in processes]
    winners = [i for i in range(2) if ends[i].code == 0]
    if len(winners) != 1:
        return [f"they ended with {[end.code for end in ends]}: {ends[1].err[-300:]}"]
    (winner,) = winners
    return [*_refused(ends[1 - winner], processes[winner]), *differences(run, whole.ending)]


def _after_a_kill(server: Server, run: Path, whole: Whole, draw: random.Random, call: str) -> list[str]:
    first = server.start(*command(run), call=call)
    until(lambda: events(run) or first.over, timeout_s=30)
    time.sleep(draw.uniform(0, whole.span_s / 2))
    killed = first.kill()
    wrong = [] if killed.code == -signal.SIGKILL else ["it had ended before the kill"]
    return wrong + after(run, server.run(*command(run), call=call), whole)


def _refused(ended: Ended, holder: ChildProcess) -> list[str]:
    """What is wrong with how the second run was met."""
    wrong = [] if ended.code == 2 else [f"the second run ended with {ended.code}"]
    if f"process {holder.pid} " not in ended.err:
        wrong.append(f"the holder, process {holder.pid}, is not named: {ended.err[-300:]}")
    return wrong

"""R2 and R4: a growing run is killed or stopped at a random moment, and started again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.fresh import AnyProcess, Fresh, Processes
from faults.harness.processes import MAIN, Ended, Server, on_growth, run_command, until
from faults.harness.runs import command, differences, ending, epochs_over, events, saved_step, stages
from faults.harness.steps import NOTED, begun_after

# Stages that a seed can be found in; `germinated` is over before the next step begins.
STAGES = ("training", "blending", "probationary", "embargoed", "fossilized")
MOST_S = 10.0
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
_SIGNALS = tuple(EXIT_CODES)
# The step that is under way when the signal arrives is finished; one more may have begun at that very moment.
_MOST_STEPS = 1
# Every so many kills the command is started with its own interpreter instead of forked.
_FRESH_EVERY = 5


@dataclass(frozen=True)
class Moment:
    """`delay_s` after a seed has entered `stage`, after the process's "first" event, or after its "start".

    Not before `epochs` epochs of the run are over.
    """

    stage: str
    delay_s: float
    epochs: int = 0

    def wait(self, process: AnyProcess, folder: Path, since_s: float) -> None:
        """Return when it has come, or the process is over."""
        if self.stage == "start":
            until(lambda: process.handles_signals or process.over, timeout_s=60)
        else:
            records = (folder / "events.jsonl", folder / "metrics.jsonl")
            come = on_growth(lambda: self._come(folder, since_s), *records)
            until(lambda: come() or process.over, timeout_s=60)
        until(lambda: process.over, timeout_s=self.delay_s)

    def _come(self, folder: Path, since_s: float) -> bool:
        found = events(folder, since_s)
        if self.stage == "first":
            return bool(found) and epochs_over(folder) >= self.epochs
        return any(e["data"].get("to") == self.stage for e in found)


@dataclass(frozen=True)
class Whole:
    """The run that was never stopped: a real command in a process of its own."""

    ending: dict[str, Any]
    span_s: float

    def moments(self, draw: random.Random) -> Iterator[Moment]:
        """For ever: in every second one anywhere in the run, else shortly after a seed enters a stage."""
        while True:
            for stage in STAGES:
                yield Moment(stage, draw.uniform(0, self.span_s / 20))
            for _ in STAGES[1:]:
                yield Moment("first", draw.uniform(0, self.span_s))
            yield Moment("start", draw.uniform(0, self.span_s))


def never_stopped(folder: Path) -> None:
    """Run it once, from its start to its end."""
    done = run_command(*command(folder), cwd=folder.parent)
    assert done.code == 0, done.err


def whole(folder: Path) -> Whole:
    """What others are compared with, of a run that was never stopped."""
    times = [event["time"] for event in events(folder)]
    return Whole(ending(folder), times[-1] - times[0])


Stop = Callable[[AnyProcess], Ended]


def interrupted(server: Processes, folder: Path, moment: Moment, stop: Stop, call: str = MAIN) -> Ended:
    """One process of the run in `folder`, stopped at `moment`."""
    began = time.time()
    process = server.start(*command(folder), call=call)
    moment.wait(process, folder, began)
    return stop(process)


def killings(server: Server, folder: Path, whole: Whole, budget: Budget, call: str = MAIN) -> FaultCounts:
    """R2: so many runs, each killed once and then run to its end."""
    counts = FaultCounts("R2")
    moments = whole.moments(budget.draw)
    while budget.lasts(counts):
        run = folder / f"killed-{counts.tries}"
        moment = next(moments)
        fresh = counts.tries % _FRESH_EVERY == _FRESH_EVERY - 1
        processes: Processes = Fresh(server) if fresh else server
        process = interrupted(processes, run, moment, lambda process: process.kill(), call)
        fired = process.code == -signal.SIGKILL
        found = {"not begun"} if not events(run) else set(stages(run).values()) or {"dormant"}
        found |= {"fresh interpreter"} if fresh else set()
        done = processes.run(*command(run), call=call)
        counts.note(fired, [f"{moment}: {s}" for s in after(run, done, whole)], *found)
    missing = sorted({*STAGES, "dormant"} - counts.seen.keys())
    counts.demand(not missing, f"no kill met a seed that was {' or '.join(missing)}")
    return counts


def chain(server: Server, folder: Path, whole: Whole, budget: Budget, call: str = MAIN) -> FaultCounts:
    """R2: one run, killed so many times in a row, then run to its end."""
    counts = FaultCounts("R2-chain")
    run = folder / "chain"
    while budget.lasts(counts):
        # so that the kills are spread over the whole run, however little a process gets done
        epochs = len(whole.ending["metrics.jsonl"])
        moment = Moment(
            "first",
            budget.draw.uniform(0, whole.span_s / epochs),
            counts.fired * (epochs - 1) // budget.tries,
        )
        process = interrupted(server, run, moment, lambda process: process.kill(), call)
        if process.code == 0:
            break
        counts.note(process.code == -signal.SIGKILL, [], *set(stages(run).values()))
    done = server.run(*command(run), call=call)
    counts.wrong += after(run, done, whole)
    return counts


def after(run: Path, done: Ended, whole: Whole) -> list[str]:
    """What is wrong with a run that has come to its end at last."""
    if done.code != 0:
        return [f"{run.name}: the last process ended with {done.code}: {done.err[-300:]}"]
    left = [path.name for path in run.rglob(".*-*") if path.parent.name != ".hydra"]
    return [*differences(run, whole.ending), *(f"{run.name}: {name} was left behind" for name in left)]


def stoppings(server: Server, folder: Path, whole: Whole, budget: Budget, call: str = MAIN) -> FaultCounts:
    """R4: so many runs, asked to stop by SIGTERM, SIGINT and SIGHUP in turn, then started again."""
    counts = FaultCounts("R4")
    moments = whole.moments(budget.draw)
    while budget.lasts(counts):
        run = folder / f"stopped-{counts.tries}"
        number = _SIGNALS[counts.tries % len(_SIGNALS)]
        moment = next(moments)
        sent = Sent(number)
        process = interrupted(server, run, moment, sent, f"{call}@{NOTED}")
        fired = not any(e["name"] == "run_finished" and e["time"] < sent.at_s for e in events(run))
        wrong = _stopped(run, process, sent)
        late = begun_after(sent.pid, server.folder, sent.at_s)
        if late > _MOST_STEPS:
            wrong.append(f"{late} steps began after the signal")
        done = server.run(*command(run), call=call)
        wrong += after(run, done, whole)
        counts.note(fired, [f"{number.name} at {moment}: {s}" for s in wrong], number.name, moment.stage)
    return counts


def terminated(process: AnyProcess) -> Ended:
    """Ask a process to stop, and wait until it has."""
    process.send(signal.SIGTERM)
    return process.wait()


class Sent:
    """Asks a process to stop, and notes when it did and how long that took."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.at_s = self.took_s = 0.0
        self.pid = 0

    def __call__(self, process: AnyProcess) -> Ended:
        self.pid = process.pid
        process.send(self.number)
        self.at_s = time.time()
        ended = process.wait(timeout_s=30)
        self.took_s = time.time() - self.at_s
        return ended


def _stopped(run: Path, process: Ended, sent: Sent) -> list[str]:
    """What is wrong with the way a process ended that was asked to stop."""
    wrong = []
    if process.code != EXIT_CODES[sent.number] or "Traceback" in process.err:
        wrong.append(f"it ended with {process.code}: {process.err[-600:]}")
    if sent.took_s > MOST_S:
        wrong.append(f"it took {sent.took_s:.1f} s")
    found = events(run)
    if not found:
        return wrong  # it had not begun: there is nothing to save
    ended = [event for event in found if event["name"] == "run_finished"]
    if not ended or ended[-1]["data"]["stopped_by"] != sent.number.name.lower():
        wrong.append("no event says that it was stopped")
    elif (saved := saved_step(run)) != ended[-1]["step"]:
        wrong.append(f"its last step is {ended[-1]['step']}, saved is {saved}")
    return wrong

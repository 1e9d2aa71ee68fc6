"""A row of the fault suite: a fault, how often it fires, and the broken builds on which it must fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from faults.harness.bench import Bench
from faults.harness.fault_counts import Budget, FaultCounts, Found

SEED = 0

Harness = Callable[[Bench, Budget], FaultCounts]
Build = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Control:
    """A subtly broken build: `run` is the row's harness on it, `symptom` what it has to find there.

    `tries` is how often the fault fires at most. The tests run only the controls that are `fast`.
    """

    name: str
    run: Harness
    symptom: str
    tries: int = 1
    fast: bool = True

    def red(self, bench: Bench, seed: int = SEED) -> str:
        """Empty where the build was found out by its symptom; else why this is not so."""
        bench.reset_fired()
        counts = self.run(bench, Budget.of(self.tries, seed))
        if not bench.fired:
            return f"{self.name}: the broken part was never called"
        if counts.fired == 0:
            return f"{self.name}: the fault never fired"
        if not any(self.symptom in sentence for sentence in counts.wrong):
            return f"{self.name}: {self.symptom!r} is not among what was found: {counts.wrong}"
        return ""


@dataclass(frozen=True)
class Row:
    """`fast` and `long` say how often the fault fires, at least; equal where a row is a list of cases."""

    fast: int
    long: int
    run: Harness
    controls: Sequence[Control] = field(default=())

    def found(self, bench: Bench, seed: int, until_s: float | None, fast: bool) -> Found:
        """Run the row, then every one of its controls."""
        began = time.monotonic()
        asked = self.fast if fast else self.long
        counts = self.run(bench, Budget.of(asked, seed, until_s))
        counts.seconds = time.monotonic() - began
        controls = {}
        for control in self.controls:
            controls[control.name] = control.red(bench, seed)
            bench.clear()
        return Found(counts, asked, controls)


def on(build: Build, run: Harness) -> Harness:
    """The same harness, within this process, while a broken build is in place."""

    def broken_run(bench: Bench, budget: Budget) -> FaultCounts:
        with build():
            return run(bench, budget)

    return broken_run

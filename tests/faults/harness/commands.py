"""Rows in which the whole command is run, as it is or with a broken build of it."""

from __future__ import annotations

from collections.abc import Callable

from faults.harness.bench import Bench
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.processes import MAIN
from faults.harness.row import Harness

_BROKEN = "faults.harness.broken."


def of_command(harness: Callable[..., FaultCounts], build: str = "") -> Harness:
    """A harness that compares with the run never stopped; `build` is `file:function` in `broken/`."""
    call = broken_call(build)

    def run(bench: Bench, budget: Budget) -> FaultCounts:
        return harness(bench.server, bench.fresh(), bench.whole, budget, call=call)

    return run


def broken_call(build: str, call: str = MAIN) -> str:
    """What a server is to call so that it runs with the broken build; with none, the call itself."""
    return f"{call}@{_BROKEN}{build}" if build else call

"""R8: hostile checkpoints."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.commands import broken_call
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.forgery import FORGERIES
from faults.harness.hostile import MEET, meetings
from faults.harness.row import Control, Harness, Row


def _hostile(build: str = "") -> Harness:
    call = broken_call(build, MEET)

    def run(bench: Bench, budget: Budget) -> FaultCounts:
        folder = bench.fresh()
        whole = max(bench.grown.iterdir())
        return meetings(bench.server, folder, whole, budget, call)

    return run


def _control(name: str, symptom: str, tries: int = 1, *, fast: bool = False) -> Control:
    return Control(name, _hostile(f"r8:{name}"), symptom, tries, fast)


_MET = sum(len(forgery.ways) for forgery in FORGERIES.values())

ROWS = {
    "R8": Row(
        *(_MET, _MET, _hostile()),
        [
            _control("pickles_read", "its payload ran", 2, fast=True),
            _control("slow_refusal", "it took 2."),
            _control("large_refusal", " MB"),
            _control("refusal_without_reason", "is not in"),
            _control("error_not_expected", "the process ended with"),
        ],
    )
}

"""R1: SIGKILL in the save loop."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r1
from faults.harness.commands import broken_call
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.row import Control, Harness, Row, on
from faults.harness.saving import SAVER, killed_saves


def _saves(build: str = "") -> Harness:
    call = broken_call(build, SAVER)

    def run(bench: Bench, budget: Budget) -> FaultCounts:
        return killed_saves(bench.server, bench.fresh(), budget, call)

    return run


def _control(name: str, symptom: str, *, fast: bool = False) -> Control:
    return Control(name, _saves(f"r1:{name}"), symptom, 20, fast)


ROWS = {
    "R1": Row(
        *(100, 2000, _saves()),
        [
            _control("naive_writer", "nothing can be loaded", fast=True),
            _control("filled_in_place", "torn"),
            _control("old_ones_removed_first", "nothing can be loaded"),
            _control("acknowledged_before_durable", "nothing can be loaded"),
            Control("leftovers_kept", on(r1.leftovers_kept, _saves()), "is still there", 20, fast=False),
        ],
    )
}

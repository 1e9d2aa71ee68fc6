"""R6: ENOSPC and EIO at the k-th call, for every k."""

from __future__ import annotations

from contextlib import nullcontext

from faults.harness.bench import Bench
from faults.harness.broken import r6
from faults.harness.disk import failures
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.grown import grown_run
from faults.harness.row import Build, Control, Harness, Row


def _failures(build: Build = nullcontext) -> Harness:
    def run(bench: Bench, budget: Budget) -> FaultCounts:
        folder = bench.fresh()
        grown = grown_run(folder / "run")
        with build():
            return failures(grown, folder)

    return run


def _control(build: Build, symptom: str, *, fast: bool = False) -> Control:
    return Control(build.__name__, _failures(build), symptom, fast=fast)


ROWS = {
    "R6": Row(
        *(40, 40, _failures()),
        [
            _control(r6.written_in_place, "its manifest says", fast=True),
            _control(r6.previous_removed_first, "is gone"),
            _control(r6.temporary_folder_left, "is left over"),
            _control(r6.error_swallowed, "the events are"),
            _control(r6.half_kept, "state.json"),
        ],
    )
}

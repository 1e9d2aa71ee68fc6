"""R7: the calls that make a save durable, by their order and by what a power failure leaves."""

from __future__ import annotations

from contextlib import nullcontext

from faults.harness.bench import Bench
from faults.harness.broken import r7
from faults.harness.disk import order, power_lost
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.grown import grown_run
from faults.harness.row import Build, Control, Harness, Row


def _durable(build: Build = nullcontext) -> Harness:
    def run(bench: Bench, budget: Budget) -> FaultCounts:
        folder = bench.fresh()
        grown = grown_run(folder / "run")
        with build():
            counts = power_lost(grown, folder)
            ordered = order(grown)
        for fired in range(ordered.fired):
            counts.note(True, ordered.wrong if fired == 0 else [], *(ordered.seen if fired == 0 else ()))
        return counts

    return run


def _control(build: Build, symptom: str = "after the power failure") -> Control:
    return Control(build.__name__, _durable(build), symptom)


ROWS = {
    "R7": Row(
        *(4, 4, _durable()),
        [
            _control(r7.synced_after_rename, "is not on the disk before the rename"),
            _control(r7.fsync_removed),
            _control(r7.folder_not_synced),
            _control(r7.manifest_not_synced),
            _control(r7.synced_before_written),
        ],
    )
}

"""R21: SIGKILL just after a rollback, inside of one, and between two, at each stage of a seed."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.commands import broken_call
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.row import Control, Harness, Row
from faults.harness.undone import CALL, undoings


def _undone(build: str = "") -> Harness:
    def run(bench: Bench, budget: Budget) -> FaultCounts:
        return undoings(bench.server, bench.fresh(), bench.undone, budget, broken_call(build, CALL))

    return run


_METRICS, _EVENTS = "metrics.jsonl differs", "contain other rollbacks"

ROWS = {
    "R21": Row(
        *(5, 50, _undone()),
        [
            Control("not_saved", _undone("r21:not_saved"), _METRICS),
            Control("logged_too_early", _undone("r21:logged_too_early"), _METRICS, 2, fast=False),
            Control("rates_forgotten", _undone("r21:rates_forgotten"), _METRICS, fast=False),
            Control("embargo_forgotten", _undone("r21:embargo_forgotten"), "memory differs", 3, fast=False),
            Control("count_forgotten", _undone("r21:count_forgotten"), _EVENTS, fast=False),
            Control("not_logged_again", _undone("r21:not_logged_again"), _EVENTS, fast=False),
            Control("snapshot_not_replaced", _undone("r21:snapshot_not_replaced"), _METRICS, fast=False),
        ],
    )
}

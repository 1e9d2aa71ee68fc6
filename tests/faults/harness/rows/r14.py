"""R14: NaN, Inf, exploding losses and gradients at each stage of a seed, twice running."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r14
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.poison import poisonings
from faults.harness.row import Control, Row, on


def _poison(bench: Bench, budget: Budget) -> FaultCounts:
    return poisonings(bench.fresh(), budget)


_NOT_BACK = "the state is not that of step"
_BROKEN = [
    Control("unwatched", on(r14.unwatched, _poison), "it went back 0 times"),
    Control("snapshot_not_copied", on(r14.snapshot_not_copied, _poison), _NOT_BACK, fast=False),
    Control("optimisers_not_restored", on(r14.optimisers_not_restored, _poison), _NOT_BACK, fast=False),
    Control("running_statistics_kept", on(r14.running_statistics_kept, _poison), _NOT_BACK, fast=False),
    Control("governor_not_restored", on(r14.governor_not_restored, _poison), _NOT_BACK, fast=False),
]

ROWS = {"R14": Row(25, 200, _poison, _BROKEN)}

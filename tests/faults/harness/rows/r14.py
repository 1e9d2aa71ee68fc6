"""R14: NaN, Inf, exploding losses and gradients at each stage of a seed, twice running."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r14
from faults.harness.poison import poisonings
from faults.harness.row import Build, Control, Row, on
from faults.harness.tally import Budget, Tally


def _poison(bench: Bench, budget: Budget) -> Tally:
    return poisonings(bench.fresh(), budget)


def _control(build: Build, symptom: str, tries: int = 1, *, fast: bool = False) -> Control:
    return Control(build.__name__, on(build, _poison), symptom, tries, fast)


ROWS = {
    "R14": Row(
        *(25, 200, _poison),
        [
            _control(r14.unwatched, "it went back 0 times", 3),
            _control(r14.losses_unjudged, "it went back 0 times", 3),
            _control(r14.snapshots_not_copied, "the state is not that of step"),
            _control(r14.meter_not_restored, "the state is not that of step", fast=True),
            _control(r14.position_not_restored, "the state is not that of step"),
        ],
    )
}

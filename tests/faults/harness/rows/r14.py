"""R14: NaN, Inf, exploding losses and gradients at each stage of a seed, twice running."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r14
from faults.harness.poison import poisonings
from faults.harness.row import Control, Row, on
from faults.harness.tally import Budget, Tally


def _poison(bench: Bench, budget: Budget) -> Tally:
    return poisonings(bench.fresh(), budget)


ROWS = {
    "R14": Row(
        25, 200, _poison, [Control("unwatched", on(r14.unwatched, _poison), "it went back 0 times", 3)]
    )
}

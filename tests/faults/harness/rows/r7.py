"""R7: the calls that make a save durable."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r7
from faults.harness.disk import order
from faults.harness.grown import grown_run
from faults.harness.row import Control, Row, on
from faults.harness.tally import Budget, Tally


def _order(bench: Bench, budget: Budget) -> Tally:
    return order(grown_run(bench.fresh()))


_LATE = "is not on the disk before the rename"

ROWS = {"R7": Row(2, 2, _order, [Control("synced_after_rename", on(r7.synced_after_rename, _order), _LATE)])}

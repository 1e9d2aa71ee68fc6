"""R17, its part of resuming: malformed requests to go on from something."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.commands import broken_call
from faults.harness.malformed import CASES, resumptions
from faults.harness.row import Control, Harness, Row
from faults.harness.tally import Budget, Tally


def _resumptions(build: str = "") -> Harness:
    call = broken_call(build)

    def run(bench: Bench, budget: Budget) -> Tally:
        return resumptions(bench.server, bench.fresh(), bench.stopped, budget, call=call)

    return run


ROWS = {
    "R17": Row(
        *(len(CASES), len(CASES), _resumptions()),
        [Control("unchecked", _resumptions("r17:unchecked"), "a run folder was made", 2)],
    )
}

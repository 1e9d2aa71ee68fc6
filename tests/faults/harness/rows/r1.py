"""R1: SIGKILL in the save loop."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.row import Control, Harness, Row
from faults.harness.saving import SAVER, killed_saves
from faults.harness.tally import Budget, Tally


def _saves(build: str = "") -> Harness:
    call = f"{SAVER}@faults.harness.broken.r1:{build}" if build else SAVER

    def run(bench: Bench, budget: Budget) -> Tally:
        return killed_saves(bench.server, bench.fresh(), budget, call)

    return run


ROWS = {
    "R1": Row(
        *(100, 2000, _saves()),
        [Control("naive_writer", _saves("naive_writer"), "nothing can be loaded", 20)],
    )
}

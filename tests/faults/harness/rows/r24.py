"""R24: every save fails from the k-th on, only the last one does, or the run folder is removed."""

from __future__ import annotations

from contextlib import nullcontext

from faults.harness.bench import Bench
from faults.harness.broken import r24
from faults.harness.row import Build, Control, Harness, Row
from faults.harness.saves import CASES, unsaved
from faults.harness.tally import Budget, Tally


def _unsaved(build: Build = nullcontext) -> Harness:
    def run(bench: Bench, budget: Budget) -> Tally:
        with build():
            return unsaved(bench.fresh())

    return run


ROWS = {
    "R24": Row(
        *(len(CASES), len(CASES), _unsaved()),
        [
            Control("silent", _unsaved(r24.silent), "the exit code is 0"),
            Control(
                "finished_for_good", _unsaved(r24.finished_for_good), "has not made the last", fast=False
            ),
        ],
    )
}

"""R6: ENOSPC and EIO at the k-th call, for every k."""

from __future__ import annotations

from contextlib import nullcontext

from faults.harness.bench import Bench
from faults.harness.broken import r6
from faults.harness.disk import failures
from faults.harness.grown import grown_run
from faults.harness.row import Build, Control, Harness, Row
from faults.harness.tally import Budget, Tally


def _failures(build: Build = nullcontext) -> Harness:
    def run(bench: Bench, budget: Budget) -> Tally:
        folder = bench.fresh()
        grown = grown_run(folder / "run")
        with build():
            return failures(grown, folder)

    return run


ROWS = {
    "R6": Row(
        *(40, 40, _failures()),
        [Control("written_in_place", _failures(r6.written_in_place), "its manifest says")],
    )
}

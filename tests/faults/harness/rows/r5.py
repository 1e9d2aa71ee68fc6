"""R5: flipped bits, truncations, deleted and exchanged files."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r5
from faults.harness.damage import corruptions
from faults.harness.grown import grown_run
from faults.harness.row import Control, Row, on
from faults.harness.tally import Budget, Tally


def _damage(bench: Bench, budget: Budget) -> Tally:
    return corruptions(grown_run(bench.fresh()).store.folder, budget)


ROWS = {
    "R5": Row(
        *(300, 5000, _damage),
        [Control("hashes_unchecked", on(r5.hashes_unchecked, _damage), "loaded without a word", 50)],
    )
}

"""R5: flipped bits, truncations, deleted and exchanged files."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

from faults.harness.bench import Bench
from faults.harness.broken import r5
from faults.harness.damage import corruptions
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.grown import grown_run
from faults.harness.row import Build, Control, Row, on


def _damage(bench: Bench, budget: Budget) -> FaultCounts:
    return corruptions(Path(copytree(bench.grown, bench.fresh() / "checkpoints")), budget)


def _in_build(bench: Bench, budget: Budget) -> FaultCounts:
    """The checkpoints are saved by the broken build as well: it may hash otherwise when it writes."""
    folder = bench.fresh()
    grown_run(folder)
    return corruptions(folder / "checkpoints", budget)


def _control(build: Build, symptom: str = "loaded without a word", *, fast: bool = False) -> Control:
    return Control(build.__name__, on(build, _in_build), symptom, 50, fast)


ROWS = {
    "R5": Row(
        *(300, 5000, _damage),
        [
            _control(r5.hashes_unchecked),
            _control(r5.sizes_only, fast=True),
            _control(r5.first_block_hashed, fast=True),
            _control(r5.damaged_without_name, "refused without its name"),
            _control(r5.model_hashed_only),
        ],
    )
}

"""R23: the checkpoints of a run are moved, linked to another disk, behind a broken link, or read-only."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.commands import broken_call
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.relocation import CASES, relocations
from faults.harness.row import Control, Harness, Row


def _relocated(build: str = "", *only: str) -> Harness:
    call = broken_call(build)

    def run(bench: Bench, budget: Budget) -> FaultCounts:
        return relocations(bench.server, bench.fresh(), bench.whole, budget, call=call, only=only)

    return run


def _control(name: str, case: str, symptom: str, *, fast: bool = False) -> Control:
    return Control(name, _relocated(f"r23:{name}", case), f"{case}: {symptom}", fast=fast)


ROWS = {
    "R23": Row(
        *(len(CASES), len(CASES), _relocated()),
        [
            _control("own_by_path", "linked", "linked: the last process ended with 2", fast=True),
            _control("links_not_followed", "linked", "linked: the last process ended with 2"),
            _control("begins_anew", "moved", "metrics.jsonl was removed or changed"),
            _control("trains_without_saving", "unwritable", "expected a refusal"),
            _control("reason_not_said", "dangling", "'is a link to"),
            _control("target_made", "dangling", "expected a refusal"),
        ],
    )
}

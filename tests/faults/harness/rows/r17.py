"""R17, its part of resuming: malformed requests to go on from something."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.commands import broken_call
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.malformed import CASES, resumptions
from faults.harness.row import Control, Harness, Row


def _resumptions(build: str = "") -> Harness:
    call = broken_call(build)

    def run(bench: Bench, budget: Budget) -> FaultCounts:
        return resumptions(bench.server, bench.fresh(), bench.stopped, budget, call=call)

    return run


def _control(name: str, symptom: str, tries: int = 1, *, fast: bool = False) -> Control:
    return Control(name, _resumptions(f"r17:{name}"), symptom, tries, fast)


ROWS = {
    "R17": Row(
        *(len(CASES), len(CASES), _resumptions()),
        [
            _control("unchecked", "a run folder was made", 2),
            _control("refused_as_a_crash", "exit code 1"),
            _control("refusal_without_reason", "is not in"),
            _control("each_problem_a_block", "2 blocks of errors", fast=True),
            _control("error_not_expected", "a traceback"),
        ],
    )
}

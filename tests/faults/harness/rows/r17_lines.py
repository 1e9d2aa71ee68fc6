"""R17, its part of command lines: malformed ones, by hand and generated."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r17
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.lines import MALFORMED, lines
from faults.harness.row import Build, Control, Row, on


def _lines(bench: Bench, budget: Budget) -> FaultCounts:
    return lines(bench.fresh(), budget)


def _control(build: Build, symptom: str, *, fast: bool = False) -> Control:
    return Control(build.__name__, on(build, _lines), symptom, 2, fast)


ROWS = {
    "R17-lines": Row(
        len(MALFORMED) + 60,
        len(MALFORMED) + 2_000,
        _lines,
        [
            _control(r17.refused_as_a_crash, "exit code 1"),
            _control(r17.refusal_without_reason, "does not begin with typo", fast=True),
            _control(r17.each_problem_a_block, "more than one line follows"),
            _control(r17.composing_not_caught, "a traceback"),
            _control(r17.no_nearest_name, "'nearest: ' is not in"),
        ],
    )
}

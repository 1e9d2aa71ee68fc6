"""R24: every save fails from the k-th on, only the last one does, or the run folder is removed."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r24
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.row import Build, Control, Row, on
from faults.harness.saves import LENGTHS, cases, unsaved

_FAST = len(cases(LENGTHS[0]))


def _unsaved(bench: Bench, budget: Budget) -> FaultCounts:
    return unsaved(bench.fresh(), budget)


def _control(build: Build, symptom: str, tries: int = 1, *, fast: bool = False) -> Control:
    return Control(build.__name__, on(build, _unsaved), symptom, tries, fast)


ROWS = {
    "R24": Row(
        *(_FAST, sum(len(cases(epochs)) for epochs in LENGTHS), _unsaved),
        [
            _control(r24.silent, "the exit code is 0", fast=True),
            _control(r24.finished_for_good, "auto has not made the last checkpoint"),
            _control(r24.exit_code_alone, "the summary does not say what is unsaved"),
            _control(r24.summary_alone, "the exit code is 0"),
            _control(r24.reader_not_warned, "a reader is not warned"),
            _control(r24.model_not_owed, "auto has not written the final model", _FAST),
            _control(r24.goes_on_from_the_end, "auto has not made the last checkpoint"),
        ],
    )
}

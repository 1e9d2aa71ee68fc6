"""R25: a reader beside a run that saves and removes."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.broken import r25
from faults.harness.commands import broken_call
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.reading import WRITER, readings
from faults.harness.row import Build, Control, Harness, Row, on

_TRIES = 200


def _readings(build: str = "") -> Harness:
    call = broken_call(build, WRITER)

    def run(bench: Bench, budget: Budget) -> FaultCounts:
        return readings(bench.server, bench.fresh(), budget, call=call)

    return run


def _reader(build: Build, symptom: str, tries: int = _TRIES, *, fast: bool = False) -> Control:
    return Control(build.__name__, on(build, _readings()), symptom, tries, fast)


ROWS = {
    "R25": Row(
        *(200, 5000, _readings()),
        [
            _reader(r25.one_look, "CheckpointError", 2000),
            _reader(r25.names_opened_twice, "Error", 1000),
            _reader(r25.oldest_first, "was durable before it was read", 1000),
            _reader(r25.errors_of_the_system, "FileNotFoundError", 1000),
            _reader(r25.torn_line_read, "JSONDecodeError", fast=True),
            Control(
                "final_model_in_place",
                _readings("r25:final_model_in_place"),
                "final model: ",
                _TRIES,
                fast=False,
            ),
        ],
    )
}

"""R22: the host name has changed between kill and resume."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.commands import broken_call
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.hostnames import CALL, renamings
from faults.harness.row import Control, Harness, Row


def _renamed(build: str = "") -> Harness:
    call = broken_call(build, CALL)

    def run(bench: Bench, budget: Budget) -> FaultCounts:
        return renamings(bench.server, bench.fresh(), bench.whole, budget, call=call)

    return run


_NOT_RESUMED, _NOT_REFUSED = "the last process ended with 2", "the second run ended with 0"
_NOT_NAMED = "the dead holder is named in 0 notices"

ROWS = {
    "R22": Row(
        *(1, 5, _renamed()),
        [
            Control("name_decides_at_the_check", _renamed("r22:name_decides_at_the_check"), _NOT_RESUMED),
            Control(
                "name_decides_at_the_lock", _renamed("r22:name_decides_at_the_lock"), _NOT_RESUMED, fast=False
            ),
            Control("lock_for_each_host", _renamed("r22:lock_for_each_host"), _NOT_REFUSED, fast=False),
            Control("lock_always_free", _renamed("r22:lock_always_free"), _NOT_REFUSED, fast=False),
            Control("without_a_word", _renamed("r22:taken_over_without_a_word"), _NOT_NAMED, fast=False),
            Control(
                "name_of_the_reader", _renamed("r22:name_written_of_the_reader"), "is not named", fast=False
            ),
        ],
    )
}

"""R3: each piece of saved state left out, one by one."""

from __future__ import annotations

from faults.harness.bench import Bench
from faults.harness.fault_counts import Budget, FaultCounts
from faults.harness.firing import fire
from faults.harness.rich import left_out
from faults.harness.row import Control, Row

_PIECES = 14  # the least that exact resume is known to need


def _omissions(bench: Bench, budget: Budget) -> FaultCounts:
    return left_out(bench.fresh())


def _with_decoy(bench: Bench, budget: Budget) -> FaultCounts:
    """State that is not needed is saved."""
    fire()
    return left_out(bench.fresh(), decoy=True)


ROWS = {"R3": Row(_PIECES, _PIECES, _omissions, [Control("decoy", _with_decoy, "no run needs decoy")])}

"""The fast tier of the fault suite; `scripts/fault_suite` runs the same rows for longer.

Whole processes are started, killed and started again: some rows take up to twenty seconds.
"""

from __future__ import annotations

import pytest
from faults.harness.bench import Bench
from faults.harness.fault_counts import Budget
from faults.harness.registry import CONTROLS, ROWS
from faults.harness.row import SEED

_FAST = [name for name, (_, control) in CONTROLS.items() if control.fast]


@pytest.mark.parametrize("name", ROWS)
def test_row(bench: Bench, name: str) -> None:
    """Each row of the fault suite, a few times."""
    row = ROWS[name]
    counts = row.run(bench, Budget.of(row.fast, SEED))
    assert counts.wrong == []
    assert counts.fired >= row.fast, "the injector did not fire as often as it should"


@pytest.mark.parametrize("name", _FAST)
def test_a_broken_build_goes_red(bench: Bench, name: str) -> None:
    """The negative controls: the same harness on a build that is broken on purpose."""
    assert CONTROLS[name][1].red(bench) == ""


def test_each_row_has_a_control_that_the_tests_run() -> None:
    assert {name.partition(":")[0] for name in _FAST} == set(ROWS)

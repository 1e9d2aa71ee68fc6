"""The fast tier of the battery; `scripts/battery` runs the same rows for longer.

Whole processes are started, killed and started again: some rows take up to twenty seconds.
"""

from __future__ import annotations

import pytest
from faults.harness.bench import Bench
from faults.harness.rows import ROWS, SEED
from faults.harness.tally import Budget


@pytest.mark.parametrize("name", ROWS)
def test_row(bench: Bench, name: str) -> None:
    """R1 to R8, R14, R17 (its part of resuming), R20."""
    row = ROWS[name]
    tally = row.run(bench, Budget.of(row.fast, SEED))
    assert tally.wrong == []
    assert tally.fired >= row.fast, "the injector did not fire as often as it should"


@pytest.mark.parametrize("name", ROWS)
def test_a_broken_build_goes_red(bench: Bench, name: str) -> None:
    """The negative control of every row: the same harness on a build that is broken on purpose."""
    row = ROWS[name]
    tally = row.control(bench, Budget.of(row.control_tries, SEED))
    assert row.caught(tally), tally.wrong

from __future__ import annotations

import time

from faults.battery import main
from faults.harness.tally import Budget, Tally, table


def tally(fired: int, wrong: int) -> Tally:
    found = Tally("R0")
    for number in range(fired):
        found.note(True, ["torn"] if number < wrong else [], "in mid-save")
    return found


def test_a_row_passes_only_with_faults_that_fired_and_a_control_that_is_red() -> None:
    assert "| R0 | pass | 3 | 3 | 0 | 0 | red | in mid-save 3 |" in table([(tally(3, 0), True)])
    for found, caught in ((tally(3, 2), True), (tally(0, 0), True), (tally(3, 0), False)):
        assert "| R0 | FAIL |" in table([(found, caught)])
    assert table([(tally(3, 2), True)]).count("- R0: torn") == 2


def test_what_is_wrong_without_the_fault_is_of_no_account() -> None:
    found = Tally("R0")
    found.note(False, ["torn"], "in mid-save")
    assert (found.tries, found.fired, found.wrong, found.seen["in mid-save"]) == (1, 0, [], 0)


def test_a_budget_ends_by_number_or_by_time() -> None:
    assert Budget.of(4, 0).lasts(tally(3, 0))
    assert not Budget.of(3, 0).lasts(tally(3, 0))
    assert not Budget.of(4, 0, until_s=time.monotonic()).lasts(tally(3, 0))


def test_unknown_rows_are_refused_by_name(capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["--rows", "R6,R99"]) == 2
    assert "R99" in capsys.readouterr().err

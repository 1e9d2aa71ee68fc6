from __future__ import annotations

import time
from pathlib import Path

import pytest
from faults import fault_suite
from faults.fault_suite import main
from faults.harness.bench import Bench
from faults.harness.fault_counts import Budget, FaultCounts, Found, table
from faults.harness.firing import fire
from faults.harness.row import Control, Row


def counts(fired: int, wrong: int) -> FaultCounts:
    found = FaultCounts("R0")
    for number in range(fired):
        found.note(True, ["torn"] if number < wrong else [], "in mid-save")
    return found


def test_a_row_passes_only_with_all_faults_fired_and_all_controls_red() -> None:
    passed = table([Found(counts(3, 0), 3, {"naive": "", "late": ""})])
    assert "| R0 | pass | 3 | 3 | 3 | 0 | 0 | naive red, late red | in mid-save 3 |" in passed
    for found in (
        Found(counts(3, 2), 3, {"naive": ""}),
        Found(counts(3, 0), 3, {"naive": "", "late": "it loads"}),
        Found(counts(3, 0), 3, {}),
    ):
        assert "| R0 | FAIL |" in table([found])
    assert table([Found(counts(3, 2), 3, {"naive": ""})]).count("- R0: torn") == 2
    assert "- R0: not red: it loads" in table([Found(counts(3, 0), 3, {"late": "it loads"})])


def test_a_row_that_fired_fewer_faults_than_asked_is_incomplete() -> None:
    for fired in (0, 2):
        assert "| R0 | INCOMPLETE |" in table([Found(counts(fired, 0), 3, {"naive": ""})])
    assert Found(counts(2, 1), 3, {"naive": ""}).verdict == "FAIL"


@pytest.mark.parametrize(("faults", "code", "verdict"), [(3, 0, "pass"), (2, 1, "INCOMPLETE")])
def test_the_fault_suite_prints_each_control_and_its_exit_code_says_incomplete(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    faults: int,
    code: int,
    verdict: str,
) -> None:
    def control(bench: Bench, budget: Budget) -> FaultCounts:
        fire()
        return counts(budget.tries, 1)

    controls = [Control("naive", control, "torn", 2), Control("late", control, "torn")]
    row = Row(1, 3, lambda bench, budget: counts(faults, 0), controls)
    monkeypatch.setattr(fault_suite, "ROWS", {"R0": row})
    assert main(["--rows", "R0"]) == code
    printed = capsys.readouterr().out
    assert f"| R0 | {verdict} | {faults} | 3 |" in printed
    assert "naive red, late red" in printed


def test_a_control_is_red_by_its_symptom_and_only_when_the_broken_part_was_called(
    bench: Bench, tmp_path: Path
) -> None:
    def found(bench: Bench, budget: Budget) -> FaultCounts:
        fire()
        return counts(1, 1)

    assert Control("naive", found, "torn").red(bench) == ""
    assert "not among what was found" in Control("naive", found, "lost").red(bench)
    assert "never called" in Control("naive", lambda *_: counts(1, 1), "torn").red(bench)


def test_what_is_wrong_without_the_fault_is_of_no_account() -> None:
    found = FaultCounts("R0")
    found.note(False, ["torn"], "in mid-save")
    assert (found.tries, found.fired, found.wrong, found.seen["in mid-save"]) == (1, 0, [], 0)


def test_a_budget_ends_by_number_or_by_time() -> None:
    assert Budget.of(4, 0).lasts(counts(3, 0))
    assert not Budget.of(3, 0).lasts(counts(3, 0))
    assert not Budget.of(4, 0, until_s=time.monotonic()).lasts(counts(3, 0))


def test_unknown_rows_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "R6,R99"]) == 2
    assert "R99" in capsys.readouterr().err

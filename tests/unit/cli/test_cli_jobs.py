"""A status file for each job, an exit code, and a table at the end."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from esper.cli.composer import Composer
from esper.cli.flags import Flags
from esper.cli.jobs import clear_status, exit_code, outcome_table, run_planned
from esper.cli.plan import Plan, PlannedRun
from esper.config import TolariaConfig
from esper.errors import CheckpointError, ConfigError, DataError, GrowthError, OutputError


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "code", "status", "logged"),
    [
        (lambda: 0, 0, "done", None),
        (lambda: 3, 3, "halted", None),
        (raising(OutputError(["no room", "no disk"], "max_epochs")), 4, "not all saved", "no room\nno disk"),
        (raising(OutputError(["no room"])), 4, "not all saved", "no room"),
        (raising(OutputError(["no room"], "sigterm")), 143, "terminated", "no room"),
        (raising(OutputError(["no room"], "emergency")), 3, "halted", "no room"),
        (lambda: 7, 7, "failed", None),
        (lambda: 130, 130, "interrupted", None),
        (lambda: 143, 143, "terminated", None),
        (raising(ConfigError(["one", "two"])), 2, "refused", "one\ntwo"),
        (raising(DataError("no file")), 2, "refused", "no file"),
        (raising(CheckpointError("torn")), 2, "refused", "torn"),
        (raising(GrowthError("odd")), 1, "crashed", "GrowthError: odd"),
        (raising(ZeroDivisionError("oops")), 1, "crashed", "ZeroDivisionError: oops"),
        (raising(KeyboardInterrupt()), 130, "interrupted", None),
        (raising(SystemExit(5)), 5, "failed", None),
        (raising(SystemExit()), 0, "done", None),
        (raising(SystemExit("text")), 1, "crashed", None),
    ],
)
def test_whatever_a_job_does_has_a_code_and_a_status(
    tmp_path: Path, run: Callable[[], int], code: int, status: str, logged: str | None
) -> None:
    assert run_planned(run, tmp_path, 3, ["a=1"]) == code
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "job": 3,
        "overrides": ["a=1"],
        "status": status,
        "exit_code": code,
        "error": logged,
    }


def test_a_crash_leaves_its_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_planned(raising(ZeroDivisionError("oops")), tmp_path, None, [])
    for text in ((tmp_path / "crash.txt").read_text(), capsys.readouterr().err):
        assert "Traceback" in text
        assert "ZeroDivisionError: oops" in text


def test_an_error_of_the_user_is_one_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_planned(raising(ConfigError(["one", "two"])), tmp_path, None, [])
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["esper-train: 2 problems in the configuration or its input", "  one", "  two"]
    assert not (tmp_path / "crash.txt").exists()


def test_a_running_job_says_so(tmp_path: Path) -> None:
    def run() -> int:
        assert json.loads((tmp_path / "status.json").read_text())["status"] == "running"
        return 0

    assert run_planned(run, tmp_path, 0, []) == 0


def sweep(folder: Path, jobs: int, *, complete: bool = True) -> Plan:
    made = tuple(PlannedRun(n, (f"seed={n}",), folder / str(n), TolariaConfig(), {}, ()) for n in range(jobs))
    return Plan(made, folder, False, Composer(Flags()), OmegaConf.create(), complete)


def finish(plan: Plan, number: int, run: Callable[[], int]) -> None:
    folder = plan.folder / str(number)
    folder.mkdir()
    run_planned(run, folder, number, [f"seed={number}"])


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([0, 2], 2), ([2, 2], 2), ([2, 3], 1), ([0, 1], 1), ([0, None], 1), ([None, None], 1)],
)
def test_the_code_of_a_sweep(tmp_path: Path, codes: list[int | None], expected: int) -> None:
    plan = sweep(tmp_path, len(codes))
    for number, code in enumerate(codes):
        if code is not None:
            finish(plan, number, lambda code=code: code)  # type: ignore[misc]
    assert exit_code(plan) == expected


def test_the_table_names_every_job_also_those_that_never_began(tmp_path: Path) -> None:
    plan = sweep(tmp_path, 12)
    finish(plan, 10, lambda: 0)
    finish(plan, 2, raising(ValueError("x" * 500)))
    rows = [line.split() for line in outcome_table(plan).splitlines()]
    assert rows[0] == ["job", "status", "overrides", "error"]
    assert [row[0] for row in rows[1:]] == [str(n) for n in range(12)]
    assert rows[11][1:] == ["done", "seed=10"]
    assert rows[3][1:3] == ["crashed", "seed=2"]
    assert rows[1][1:] == ["not", "started", "seed=0"]
    assert max(map(len, outcome_table(plan).splitlines())) < 120


def test_where_a_sweeper_chooses_only_what_ran_counts(tmp_path: Path) -> None:
    plan = sweep(tmp_path, 5, complete=False)
    finish(plan, 0, lambda: 0)
    assert exit_code(plan) == 0
    assert len(outcome_table(plan).splitlines()) == 2


def test_an_earlier_run_in_the_same_folder_is_forgotten(tmp_path: Path) -> None:
    plan = sweep(tmp_path, 1)
    finish(plan, 0, lambda: 0)
    clear_status(plan)
    assert exit_code(plan) == 1


def test_a_status_that_cannot_be_written_does_not_cost_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk: the run's own code is what counts, and one line says what is missing."""
    (tmp_path / "status.json" / "in_the_way").mkdir(parents=True)
    assert run_planned(lambda: 0, tmp_path, None, []) == 0
    message = capsys.readouterr().err
    assert "status.json cannot be written" in message and "Traceback" not in message


def test_a_full_disk_is_a_sentence_and_another_error_of_the_system_a_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    def full() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    assert run_planned(full, tmp_path, None, []) == 1
    message = capsys.readouterr().err
    assert "No space left on device: 'metrics.jsonl'" in message and "Traceback" not in message
    assert not (tmp_path / "crash.txt").exists()

    def missing() -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    assert run_planned(missing, tmp_path, None, []) == 1
    assert "Traceback" in capsys.readouterr().err and (tmp_path / "crash.txt").exists()

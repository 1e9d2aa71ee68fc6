from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run_with_closed_pipe(program: str) -> tuple[int, str]:
    """Exit code and error stream of a program whose standard output is not read."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", f"from esper.utils.stdout import flush_output, print_flushed\n{program}"]
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=buffered
    )
    os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "program",
    [
        "print_flushed('a'); print_flushed('b'); print('c')",
        "print('a'); flush_output()",
        "import sys; print_flushed('a', sys.stdout)",
    ],
)
def test_a_reader_that_has_gone_is_no_error(program: str) -> None:
    assert run_with_closed_pipe(f"{program}\nraise SystemExit(3)") == (3, "")


def test_without_it_the_interpreter_complains() -> None:
    code, errors = run_with_closed_pipe("print('a')")
    assert code == 120 and "BrokenPipeError" in errors


def test_what_is_read_is_complete() -> None:
    command = [
        sys.executable,
        "-c",
        "from esper.utils.stdout import print_flushed; print_flushed('a'); print_flushed('b')",
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "a\nb\n"

"""Broken builds for R17: a malformed request to resume is not refused, or not before anything was made."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from faults.harness.firing import broken

from esper import train
from esper.cli.plan import make_plan
from esper.runs import resume


@contextmanager
def unchecked() -> Iterator[None]:
    """What is named to resume from is not looked at before it is used."""
    with broken(train, "_checked", make_plan), broken(resume, "_refuse_changes", lambda *_: None):
        yield


def refused_as_a_crash() -> AbstractContextManager[None]:
    """The exit code of a refusal is that of an internal error."""
    main = train._main
    return broken(train, "_main", lambda *arguments: min(main(*arguments), 1))


def refusal_without_reason() -> AbstractContextManager[None]:
    """It says that something is wrong, and not what."""

    def print_errors(problems: Sequence[str], what: str = "the configuration") -> None:
        print(f"esper-train: {len(problems)} problems in {what}", file=sys.stderr)

    return broken(train, "print_errors", print_errors)


def each_problem_a_block() -> AbstractContextManager[None]:
    """A refusal is printed twice."""
    print_errors = train.print_errors

    def twice(*arguments: Any) -> None:
        print_errors(*arguments)
        print_errors(*arguments)

    return broken(train, "print_errors", twice)


def error_not_expected() -> AbstractContextManager[None]:
    """A path that does not exist is an error that is not caught."""

    def checked(flags: Any) -> None:
        raise KeyError("origin")

    return broken(train, "_checked", checked)


def composing_not_caught() -> AbstractContextManager[None]:
    """A key that does not exist is an error that is not caught."""

    def composed(flags: Any) -> None:
        raise KeyError("typo")

    return broken(train, "make_plan", composed)


def no_nearest_name() -> AbstractContextManager[None]:
    """A refusal does not say which name may have been meant."""
    print_errors = train.print_errors

    def curt(problems: Sequence[str], *what: str) -> None:
        print_errors([text.partition("nearest: ")[0] for text in problems], *what)

    return broken(train, "print_errors", curt)

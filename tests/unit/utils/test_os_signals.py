"""Signals become stop requests, once; before training they end the process; exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from esper.utils.os_signals import exit_code, stop_on_signals


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "sigint"), (signal.SIGTERM, "sigterm")])
def test_the_first_signal_is_a_stop_request_and_the_second_has_its_default(number: int, reason: str) -> None:
    reasons: list[str] = []
    reached: list[int] = []
    before = signal.signal(number, lambda n, frame: reached.append(n))
    try:
        with stop_on_signals(reasons.append):
            os.kill(os.getpid(), number)
            assert (reasons, reached) == ([reason], [])
            os.kill(os.getpid(), number)
            assert (reasons, reached) == ([reason], [number])
        os.kill(os.getpid(), number)
        assert (reasons, reached) == ([reason], [number, number])
    finally:
        signal.signal(number, before)


def test_after_the_block_the_handlers_of_before_are_back() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(KeyError), stop_on_signals(lambda reason: None):
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
        raise KeyError("left by an error")
    assert {number: signal.getsignal(number) for number in before} == before


def test_outside_of_the_main_thread_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[bool] = []

    def work() -> None:
        with stop_on_signals(lambda reason: None):
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


@pytest.mark.parametrize(
    ("stopped_by", "code"),
    [
        ("max_epochs", 0),
        ("early_stopping", 0),
        ("stopped", 0),
        ("sighup", 129),
        ("sigint", 130),
        ("sigterm", 143),
        ("emergency", 3),
    ],
)
def test_exit_codes(stopped_by: str, code: int) -> None:
    assert exit_code(stopped_by) == code


def test_sighup_asks_once_and_is_then_ignored() -> None:
    """A closing terminal sends it, and so does its shell."""
    reasons: list[str] = []
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with stop_on_signals(reasons.append):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGHUP)
        assert reasons == ["sighup"]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, former)


def test_while_the_run_is_starting_a_signal_is_handled_as_before() -> None:
    reasons: list[str] = []
    reached: list[int] = []
    starting = True
    former = signal.signal(signal.SIGTERM, lambda n, frame: reached.append(n))
    try:
        with stop_on_signals(reasons.append, starting=lambda: starting):
            os.kill(os.getpid(), signal.SIGTERM)
            assert (reasons, reached) == ([], [signal.SIGTERM])
            starting = False
            os.kill(os.getpid(), signal.SIGTERM)
            assert (reasons, reached) == (["sigterm"], [signal.SIGTERM])
    finally:
        signal.signal(signal.SIGTERM, former)


_PREAMBLE = """
import os, signal
from esper.utils.os_signals import before_exit, exit_on_signals, stop_on_signals
def say(text):
    os.write(1, f"{text} ".encode())
"""


def ended(code: str, *, ignored: int | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors of a Python process; `ignored` is a signal that it inherits as ignored."""
    former = None if ignored is None else signal.signal(ignored, signal.SIG_IGN)
    try:
        command = [sys.executable, "-c", _PREAMBLE + code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        if ignored is not None:
            signal.signal(ignored, former)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_before_training_a_signal_ends_the_process_after_its_last_steps(number: signal.Signals) -> None:
    code = f"""
with exit_on_signals(), before_exit(lambda code: say(f"first {{code}}")):
    with before_exit(lambda code: 1 / 0), before_exit(lambda code: say("last")), before_exit(say):
        pass
    with exit_on_signals(), before_exit(lambda code: 1 / 0):
        try:
            os.kill(os.getpid(), {int(number)})
        finally:
            say("unwound")
"""
    assert ended(code) == (128 + number, f"first {128 + number} ", "")


def test_a_forked_child_does_not_do_the_last_steps_of_its_parent() -> None:
    code = """
with exit_on_signals(), before_exit(lambda code: say("locks released")):
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert ended(code) == (0, "143 ", "")


def test_a_process_started_with_sighup_ignored_goes_on() -> None:
    """As with `nohup`."""
    code = """
with exit_on_signals(), stop_on_signals(say):
    os.kill(os.getpid(), signal.SIGHUP)
    say("goes on")
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)
    say("saves")
"""
    assert ended(code, ignored=signal.SIGHUP) == (0, "goes on sigterm saves ", "")


def test_a_second_signal_ends_the_process_at_once() -> None:
    code = """
with exit_on_signals(), stop_on_signals(say):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGINT)
    say("goes on")
"""
    assert ended(code) == (130, "sigterm ", "")

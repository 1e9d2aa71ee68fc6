"""Requests from other threads."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from esper.errors import CheckpointError
from esper.tolaria.run_control import RunControl


def test_without_a_request_the_run_continues_at_once() -> None:
    run_control = RunControl()
    began = time.monotonic()
    assert not run_control.poll()
    assert time.monotonic() - began < 0.1


def test_the_first_reason_to_stop_is_the_one_that_counts() -> None:
    run_control = RunControl()
    run_control.stop("sigterm")
    run_control.stop("sigint")
    assert run_control.poll()
    assert run_control.stop_reason == "sigterm"


def poll_in_a_thread(run_control: RunControl) -> tuple[threading.Thread, list[bool]]:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(run_control.poll()))
    thread.start()
    return thread, answers


def test_a_pause_holds_until_resumed() -> None:
    run_control = RunControl()
    run_control.pause()
    thread, answers = poll_in_a_thread(run_control)
    time.sleep(0.05)
    assert run_control.paused
    assert answers == []
    run_control.resume()
    thread.join(timeout=5)
    assert answers == [False]
    assert not run_control.paused


def test_a_stop_ends_a_pause() -> None:
    run_control = RunControl()
    run_control.pause()
    thread, answers = poll_in_a_thread(run_control)
    run_control.stop()
    thread.join(timeout=5)
    assert answers == [True]


def test_a_stop_wins_over_a_pause_that_comes_later() -> None:
    run_control = RunControl()
    run_control.stop("sigterm")
    run_control.pause()
    assert not run_control.paused
    assert run_control.poll()


def test_whoever_attends_is_called_over_and_over_while_the_run_is_held() -> None:
    run_control = RunControl()
    run_control.pause()
    calls = 0

    def on_poll() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            run_control.resume()

    assert not run_control.poll(on_poll)
    assert calls == 3


def test_checkpoint_requests_are_taken_once_and_not_when_cancelled() -> None:
    run_control = RunControl()
    first, second = run_control.checkpoint(), run_control.checkpoint()
    assert run_control.pending
    assert second.cancel()
    assert run_control.take_requests() == [first]
    assert not run_control.pending
    assert run_control.take_requests() == []


def test_when_the_run_is_over_every_checkpoint_request_is_rejected() -> None:
    run_control = RunControl()
    before = run_control.checkpoint()
    run_control.reject("it is over")
    for request in (before, run_control.checkpoint()):
        with pytest.raises(CheckpointError, match="it is over"):
            request.result(0)


def test_a_handler_may_interrupt_a_poll_that_is_under_way() -> None:
    """Flags only; a handler that took a lock would wait for the thread it has interrupted."""
    run_control = RunControl()
    run_control.pause()
    before = signal.signal(signal.SIGALRM, lambda number, frame: run_control.stop("alarm"))
    try:
        for _ in range(20):
            run_control.stop_reason = ""
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            assert run_control.poll()
    finally:
        signal.signal(signal.SIGALRM, before)

"""T11: wishes from other threads."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from esper.errors import CheckpointError
from esper.tolaria.run_control import Wishes


def test_without_a_wish_the_run_goes_on_at_once() -> None:
    wishes = Wishes()
    began = time.monotonic()
    assert not wishes.poll()
    assert time.monotonic() - began < 0.1


def test_the_first_reason_to_stop_is_the_one_that_counts() -> None:
    wishes = Wishes()
    wishes.stop("sigterm")
    wishes.stop("sigint")
    assert wishes.poll()
    assert wishes.stop_reason == "sigterm"


def poll_in_a_thread(wishes: Wishes) -> tuple[threading.Thread, list[bool]]:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(wishes.poll()))
    thread.start()
    return thread, answers


def test_a_pause_holds_until_resumed() -> None:
    wishes = Wishes()
    wishes.pause()
    thread, answers = poll_in_a_thread(wishes)
    time.sleep(0.05)
    assert wishes.paused
    assert answers == []
    wishes.resume()
    thread.join(timeout=5)
    assert answers == [False]
    assert not wishes.paused


def test_a_stop_ends_a_pause() -> None:
    wishes = Wishes()
    wishes.pause()
    thread, answers = poll_in_a_thread(wishes)
    wishes.stop()
    thread.join(timeout=5)
    assert answers == [True]


def test_a_stop_wins_over_a_pause_that_comes_later() -> None:
    wishes = Wishes()
    wishes.stop("sigterm")
    wishes.pause()
    assert not wishes.paused
    assert wishes.poll()


def test_whoever_attends_is_called_over_and_over_while_the_run_is_held() -> None:
    wishes = Wishes()
    wishes.pause()
    calls = 0

    def attend() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            wishes.resume()

    assert not wishes.poll(attend)
    assert calls == 3


def test_wishes_for_a_checkpoint_are_taken_once_and_not_when_cancelled() -> None:
    wishes = Wishes()
    first, second = wishes.checkpoint(), wishes.checkpoint()
    assert wishes.asks
    assert second.cancel()
    assert wishes.asked() == [first]
    assert not wishes.asks
    assert wishes.asked() == []


def test_when_the_run_is_over_every_wish_for_a_checkpoint_is_refused() -> None:
    wishes = Wishes()
    before = wishes.checkpoint()
    wishes.refuse("it is over")
    for wish in (before, wishes.checkpoint()):
        with pytest.raises(CheckpointError, match="it is over"):
            wish.result(0)


def test_a_handler_may_interrupt_a_poll_that_is_under_way() -> None:
    """T11: flags only; a handler that took a lock would wait for the thread it has interrupted."""
    wishes = Wishes()
    wishes.pause()
    before = signal.signal(signal.SIGALRM, lambda number, frame: wishes.stop("alarm"))
    try:
        for _ in range(20):
            wishes.stop_reason = ""
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            assert wishes.poll()
    finally:
        signal.signal(signal.SIGALRM, before)

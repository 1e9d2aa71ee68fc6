"""T11: wishes from other threads."""

from __future__ import annotations

import threading
import time

from esper.tolaria.signals import Wishes


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

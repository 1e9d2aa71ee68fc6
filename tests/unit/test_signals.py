"""T11: SIGINT and SIGTERM become wishes, once; C6: exit codes."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from esper.signals import exit_code, on_signals


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "sigint"), (signal.SIGTERM, "sigterm")])
def test_the_first_signal_is_a_wish_and_the_second_is_itself_again(number: int, reason: str) -> None:
    reasons: list[str] = []
    reached: list[int] = []
    before = signal.signal(number, lambda n, frame: reached.append(n))
    try:
        with on_signals(reasons.append):
            os.kill(os.getpid(), number)
            assert (reasons, reached) == ([reason], [])
            os.kill(os.getpid(), number)
            assert (reasons, reached) == ([reason], [number])
        os.kill(os.getpid(), number)
        assert (reasons, reached) == ([reason], [number, number])
    finally:
        signal.signal(number, before)


def test_after_the_block_the_handlers_of_before_are_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(KeyError), on_signals(lambda reason: None):
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
        raise KeyError("left by an error")
    assert {number: signal.getsignal(number) for number in before} == before


def test_outside_of_the_main_thread_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[bool] = []

    def work() -> None:
        with on_signals(lambda reason: None):
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
        ("sigint", 130),
        ("sigterm", 143),
        ("emergency", 3),
    ],
)
def test_exit_codes(stopped_by: str, code: int) -> None:
    assert exit_code(stopped_by) == code

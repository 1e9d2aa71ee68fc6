"""SIGINT and SIGTERM: the first asks the run to save and end, the second ends it at once (spec T11).

Before there is a run there is nothing to save: there SIGTERM ends the process at once, with its exit code.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

REASONS = {signal.SIGINT: "sigint", signal.SIGTERM: "sigterm"}


@contextmanager
def on_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Within the block the first signal only calls `stop(reason)`; then the handlers of before are back.

    Outside of the main thread Python allows no handlers, so there the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in REASONS}

    def handle(number: int, frame: FrameType | None) -> None:
        stop(REASONS[signal.Signals(number)])
        for name, handler in before.items():
            signal.signal(name, handler)

    for number in REASONS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM ends the process without any more of its code, with exit code 143.

    Python's default would end it by the signal itself, which others read as -15.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(stopped_by: str) -> int:
    """The process's exit code for the way a run ended: 128 plus the signal's number, 3 for a halt, or 0."""
    if stopped_by == "emergency":
        return 3
    for number, reason in REASONS.items():
        if stopped_by == reason:
            return 128 + number
    return 0

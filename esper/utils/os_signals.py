"""SIGINT, SIGTERM and SIGHUP: before training they end the process, in training they are stop requests.

Before a run trains there is nothing to save: there a signal ends the process at once, with 128 plus its
number as the exit code. While it trains, the first signal asks it to save and end, and the second ends it at
once; but not SIGHUP, which a closing terminal and its shell both send. SIGHUP is left alone where the process
was started with it ignored, as `nohup` does.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REASONS = {signal.SIGINT: "sigint", signal.SIGTERM: "sigterm", signal.SIGHUP: "sighup"}

# What `exit_now` still does, each in the process that asked for it; the last first.
_exit_callbacks: list[tuple[int, Callable[[int], object]]] = []


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within the block a signal ends the process without any more of its code, except for `before_exit`.

    An exception raised by a handler would be lost, or become a traceback, where it meets an import or a
    callback from C. Within another such block this one changes nothing.
    """
    if signal.getsignal(signal.SIGTERM) is exit_now:
        yield
        return
    with _handled_by(exit_now):
        yield


@contextmanager
def stop_on_signals(
    stop: Callable[[str], None], starting: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Within the block the first signal only calls `stop(reason)`; then the handlers of before are back.

    While `starting()` holds, a signal is handled as it was before the block.
    """
    terminals = [stream for stream in (0, 1, 2) if os.isatty(stream)]
    before = {number: signal.getsignal(number) for number in REASONS}

    def handle(number: int, frame: FrameType | None) -> None:
        former = before[signal.Signals(number)]
        if starting() and callable(former):
            former(number, frame)
            return
        for name, handler in before.items():
            signal.signal(name, handler)
        if starting():
            os.kill(os.getpid(), number)
            return
        if before[signal.SIGHUP] != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, lambda *_: _detach_closed_terminals(terminals))
        _detach_closed_terminals(terminals)
        stop(REASONS[signal.Signals(number)])

    with _handled_by(handle):
        yield


@contextmanager
def before_exit(last: Callable[[int], object]) -> Iterator[None]:
    """Within the block `last(exit_code)` is called where a signal ends the process at once.

    It is called inside of the signal's handler: it has to be short, and may wait for nothing.
    """
    step = (os.getpid(), last)
    _exit_callbacks.append(step)
    try:
        yield
    finally:
        _exit_callbacks.remove(step)


def exit_now(number: int, frame: FrameType | None = None) -> None:
    """The handler that ends the process, with 128 plus the signal's number as the exit code."""
    for process, last in reversed(_exit_callbacks):
        if process == os.getpid():  # and not a child that was forked from it
            with suppress(Exception):
                last(128 + number)
    os._exit(128 + number)


def exit_code(stopped_by: str) -> int:
    """The process's exit code for the way a run ended: 128 plus the signal's number, 3 for a halt, or 0."""
    if stopped_by == "emergency":
        return 3
    for number, reason in REASONS.items():
        if stopped_by == reason:
            return 128 + number
    return 0


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler for all three signals within the block.

    Outside of the main thread Python allows no handlers, so there the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in REASONS}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]  # as `nohup` wants it
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _detach_closed_terminals(terminals: list[int]) -> None:
    """Redirect what went to a terminal that has been closed to nowhere: writing there would fail."""
    for stream in terminals:
        if not os.isatty(stream):
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, stream)
            os.close(nowhere)

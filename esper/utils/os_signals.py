"""SIGINT, SIGTERM and SIGHUP: before training they end the process, during training they are stop requests.

Before training there is nothing to save: a signal ends the process at once, with 128 plus its number as the
exit code. During training the first signal requests that the run saves and ends, and the second ends it at
once, except SIGHUP, which a closing terminal and its shell both send. SIGHUP stays ignored if the process was
started with it ignored, as by `nohup`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REASONS = {signal.SIGINT: "sigint", signal.SIGTERM: "sigterm", signal.SIGHUP: "sighup"}

# The callbacks of `exit_now`, each with its process; the last is called first.
_exit_callbacks: list[tuple[int, Callable[[int], object]]] = []


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within the block a signal ends the process at once; only `before_exit` callbacks run.

    An exception raised by a signal handler could be lost, or printed as a traceback, during an import or in a
    callback from C. A nested block changes nothing.
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
    """Within the block the first signal calls `stop(reason)` and restores the former handlers.

    Args:
        stop: called with a value of `REASONS`.
        starting: while it returns True, a signal is handled as before the block.
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
    """Within the block `last(exit_code)` is called if a signal ends the process at once.

    It is called in the signal handler, so it must be short and must not block.
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
        if process == os.getpid():  # not in a forked child
            with suppress(Exception):
                last(128 + number)
    os._exit(128 + number)


def exit_code(stopped_by: str) -> int:
    """The exit code for the reason a run ended: 128 plus the signal's number, 3 for a halt, or 0."""
    if stopped_by == "emergency":
        return 3
    for number, reason in REASONS.items():
        if stopped_by == reason:
            return 128 + number
    return 0


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler for all three signals within the block.

    Python allows handlers in the main thread only; in other threads the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in REASONS}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]  # keep it ignored, for `nohup`
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _detach_closed_terminals(terminals: list[int]) -> None:
    """Redirect standard streams of a closed terminal to the null device, because writing would fail."""
    for stream in terminals:
        if not os.isatty(stream):
            devnull = os.open(os.devnull, os.O_RDWR)
            os.dup2(devnull, stream)
            os.close(devnull)

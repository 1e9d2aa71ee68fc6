from __future__ import annotations

import time

import pytest
from growth_arms.measured import Stopwatch


class Worker:
    def outer(self) -> str:
        self.inner()
        return "done"

    def inner(self) -> None:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass

    def broken(self) -> None:
        self.inner()
        raise ValueError("on purpose")


def test_nested_calls_of_a_label_count_once() -> None:
    watch, worker = Stopwatch(), Worker()
    watch.watch(worker, "outer", "all")
    watch.watch(worker, "inner", "all")
    assert worker.outer() == "done"
    assert 0.02 <= watch.seconds["all"] < 0.04


def test_a_call_that_raises_counts_too() -> None:
    watch, worker = Stopwatch(), Worker()
    watch.watch(worker, "broken", "all")
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            worker.broken()
    assert watch.seconds["all"] >= 0.04


def test_what_was_never_called_took_no_time() -> None:
    watch = Stopwatch()
    watch.watch(Worker(), "inner", "all")
    assert watch.seconds == {"all": 0.0}

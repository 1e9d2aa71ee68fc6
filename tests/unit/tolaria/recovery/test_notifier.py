"""Broadcasts never block a step; one that fails or is capped stays queued and is visible."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from esper.leyline import EmergencyLevel, EmergencySignal
from esper.tolaria.recovery.notifier import NotifierWorker


def signal(step: int, level: int = EmergencyLevel.ELEVATED) -> EmergencySignal:
    return EmergencySignal("run", EmergencyLevel.of(level), "why", 1.0, step, 0)


def wait_for(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10.0
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return condition()


class Receiver:
    """Fails the first `failures` times, and waits for `open` each time."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0
        self.got: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, sent: EmergencySignal) -> None:
        self.calls += 1
        self.open.wait(10)
        if self.calls <= self.failures:
            raise OSError("no way")
        self.got.append(sent.step)


def test_signals_arrive_in_their_order() -> None:
    receiver = Receiver()
    worker = NotifierWorker(receiver)
    for step in range(5):
        worker.publish(signal(step))
    assert worker.close() == 0
    assert receiver.got == [0, 1, 2, 3, 4]
    assert worker.status()["sent"] == 5
    assert worker.last_latency_ms is not None
    assert not [t for t in threading.enumerate() if t.name == "esper-broadcast"]


def test_a_receiver_that_hangs_blocks_nothing_and_is_reported_once() -> None:
    receiver = Receiver()
    receiver.open.clear()
    worker = NotifierWorker(receiver, timeout_s=0.05)
    began = time.monotonic()
    for step in range(3):
        worker.publish(signal(step))
    assert time.monotonic() - began < 0.5
    assert wait_for(lambda: receiver.calls == 1)
    time.sleep(0.06)
    (problem,) = worker.problems()
    assert problem.late
    assert "0.05 s" in problem.reason
    assert worker.problems() == []
    assert (worker.status()["queued"], worker.failures) == (3, 1)
    assert worker.close(timeout_s=0.05) == 3  # given up, not waited for
    receiver.open.set()


def test_one_that_fails_stays_queued_and_is_tried_again() -> None:
    receiver = Receiver(failures=1)
    worker = NotifierWorker(receiver)
    worker.publish(signal(7))
    assert wait_for(lambda: worker.failures == 1)
    assert worker.status()["queued"] == 1
    (problem,) = worker.problems()
    assert (problem.late, problem.reason) == (False, "OSError: no way")
    assert wait_for(lambda: receiver.got == [7])
    assert worker.close() == 0


def test_at_the_end_one_that_fails_is_tried_once_more_and_counted_as_not_sent() -> None:
    receiver = Receiver(failures=99)
    worker = NotifierWorker(receiver)
    worker.publish(signal(1))
    worker.publish(signal(2))
    assert wait_for(lambda: worker.failures == 1)
    assert worker.close() == 2
    assert receiver.got == []


def test_one_over_the_cap_waits_and_is_counted() -> None:
    receiver = Receiver()
    worker = NotifierWorker(receiver, cap=2, window_s=0.2)
    for step in range(3):
        worker.publish(signal(step))
    assert wait_for(lambda: worker.capped == 1)
    assert (receiver.got, worker.status()["queued"]) == ([0, 1], 1)
    assert wait_for(lambda: receiver.got == [0, 1, 2])
    worker.close()


def test_the_queue_is_bounded_and_the_newest_is_kept() -> None:
    receiver = Receiver()
    receiver.open.clear()
    worker = NotifierWorker(receiver, capacity=3)
    worker.publish(signal(0))
    assert wait_for(lambda: receiver.calls == 1)
    for step in range(1, 6):
        worker.publish(signal(step))
    assert (worker.status()["queued"], worker.dropped) == (3, 3)
    receiver.open.set()
    assert worker.close() == 0
    assert receiver.got == [0, 4, 5]


def test_a_full_queue_keeps_the_highest_levels_and_the_newest_and_says_what_it_gave_up() -> None:
    receiver = Receiver()
    receiver.open.clear()
    worker = NotifierWorker(receiver, capacity=4)
    worker.publish(signal(0))
    assert wait_for(lambda: receiver.calls == 1)
    for step, level in ((1, 4), (2, 1), (3, 3), (4, 2), (5, 1), (6, 1)):
        worker.publish(signal(step, level))
    assert worker.dropped == 3
    [problem] = worker.problems()
    assert not problem.late
    assert problem.reason == (
        "3 broadcasts were given up: 4 are waiting; the last of them of level 1 at step 5"
    )
    assert worker.problems() == [], "reported once"
    receiver.open.set()
    assert worker.close() == 0
    assert receiver.got == [0, 1, 3, 6]


def test_without_a_signal_there_is_no_thread() -> None:
    worker = NotifierWorker(Receiver())
    assert worker.problems() == []
    assert worker.close() == 0
    assert not [t for t in threading.enumerate() if t.name == "esper-broadcast"]

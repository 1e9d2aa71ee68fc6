from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from esper.loggers.bounded_queue import BoundedQueue, Item

_KINDS = ("start", "step", "event", "epoch", "finish", "close")


def _drain(backlog: BoundedQueue) -> list[Item]:
    backlog.end()
    return list(iter(backlog.take, None))


@given(kinds=st.lists(st.sampled_from(_KINDS)), capacity=st.integers(1, 8))
def test_nothing_is_lost_uncounted_and_order_stays(kinds: list[str], capacity: int) -> None:
    backlog = BoundedQueue(capacity)
    for number, kind in enumerate(kinds):
        backlog.put(kind, number)
    left = _drain(backlog)
    assert len(left) + sum(backlog.dropped.values()) == len(kinds)
    assert [item.payload for item in left] == sorted(item.payload for item in left)
    assert all(item.kind == kinds[item.payload] for item in left)
    assert set(backlog.dropped) <= {"step", "event", "epoch"}
    kept_for_good = sum(kind in ("start", "finish", "close") for kind in kinds)
    assert len(left) <= max(capacity, kept_for_good)


def test_the_oldest_step_gives_way_first_then_events_then_epochs() -> None:
    backlog = BoundedQueue(3)
    for kind, payload in [("epoch", 0), ("step", 1), ("step", 2), ("event", 3)]:
        backlog.put(kind, payload)
    assert dict(backlog.dropped) == {"step": 1}
    for kind, payload in [("epoch", 4), ("epoch", 5), ("epoch", 6)]:
        backlog.put(kind, payload)
    assert dict(backlog.dropped) == {"step": 2, "event": 1, "epoch": 1}
    assert [item.payload for item in _drain(backlog)] == [4, 5, 6]


def test_take_waits_for_what_another_thread_puts() -> None:
    backlog = BoundedQueue(4)
    taken: list[Item | None] = []
    thread = threading.Thread(target=lambda: taken.extend([backlog.take(), backlog.take()]))
    thread.start()
    backlog.put("step", 1)
    backlog.end()
    thread.join(5)
    assert taken == [Item("step", 1), None]

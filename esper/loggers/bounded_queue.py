"""A bounded queue that drops items instead of blocking the training loop."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One pending call of a slow logger: the method's name and its argument."""

    kind: str
    payload: Any


# Kinds that may be dropped when the queue is full, the least important first; other kinds are always kept.
_DROPPABLE = ("step", "event", "epoch")


class BoundedQueue:
    """First in, first out, between one thread that puts and one that takes.

    Of more than `capacity` items the oldest step record is dropped, then the oldest event, then the oldest
    epoch; `dropped` counts them by kind. `put` never waits.
    """

    def __init__(self, capacity: int) -> None:
        self.dropped: Counter[str] = Counter()
        self._capacity = capacity
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def put(self, kind: str, payload: Any) -> None:
        with self._changed:
            self._items.append(Item(kind, payload))
            if len(self._items) > self._capacity:
                self._drop_one()
            self._changed.notify()

    def take(self) -> Item | None:
        """Wait for the next item; None once `end` was called and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            return self._items.popleft() if self._items else None

    def end(self) -> None:
        """Mark the end of the input: `take` returns None once the queue is empty."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _drop_one(self) -> None:
        for kind in _DROPPABLE:
            index = next((i for i, item in enumerate(self._items) if item.kind == kind), None)
            if index is not None:
                del self._items[index]
                self.dropped[kind] += 1
                return

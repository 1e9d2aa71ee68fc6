"""Which batches an epoch consists of: all of them, the first few, or one repeated."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol


class Loader(Protocol):
    """A source of batches whose order is a function of the epoch, so that any position can be resumed."""

    @property
    def num_samples(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]: ...


class BatchSource:
    """A loader with the limits of a debug run: at most `limit` batches, or its first one repeated."""

    def __init__(self, loader: Loader, *, limit: int | None = None, repeat_first: bool = False) -> None:
        self.loader = loader
        self.repeat_first = repeat_first
        self.length = len(loader) if limit is None else min(limit, len(loader))

    @property
    def batch_size(self) -> int:
        return self.loader.batch_size

    def __len__(self) -> int:
        return self.length

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Batches of `epoch`, starting at batch number `start`."""
        if self.repeat_first:
            first = next(iter(self.loader.batches(0)))
            return iter([first] * (self.length - start))
        return islice(self.loader.batches(epoch, start), max(0, self.length - start))

    def windows(self, epoch: int, start: int, size: int) -> Iterator[list[Any]]:
        """The same in lists of `size` batches; the last window may be shorter."""
        source = self.batches(epoch, start)
        while window := list(islice(source, size)):
            yield window

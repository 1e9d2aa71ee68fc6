"""One write at a time, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from esper.errors import CheckpointError


class Writer:
    """Runs a write in the background; whoever starts the next one waits for the last.

    The thread stays until `close`, for whoever starts one waits until it runs. It is waited for when the
    process ends: one that ends by an error still ends its write.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "esper-checkpoint")
        self._write: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._write is not None and not self._write.done()

    def start(self, write: Callable[[], None]) -> None:
        """Start a write; the last one must have been waited for."""
        assert self._write is None, "the last write has not been waited for"
        self._write = self._pool.submit(write)

    def wait(self) -> BaseException | None:
        """Wait for the write, if there is one; returns why it failed.

        Raises what no disk, memory or state can explain: that is a defect, not a failed save.
        """
        write, self._write = self._write, None
        failure = write.exception() if write is not None else None
        if failure is not None and not isinstance(failure, EXPECTED):
            raise failure
        return failure

    def close(self) -> None:
        """Wait for the write and end the thread; the next write begins another."""
        self._pool.shutdown()
        self._pool = ThreadPoolExecutor(1, "esper-checkpoint")


# What may keep a state from being saved without anything being wrong with the run.
EXPECTED = (OSError, CheckpointError, MemoryError, torch.OutOfMemoryError)

"""Records and progress callback of a run, with listeners."""

from __future__ import annotations

from collections.abc import Callable

from helpers.runs import Notes


class Watching(Notes):
    """Calls its listeners after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[], object]] = []

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        super().progress(step_in_epoch, loss)
        for listen in self.listeners:
            listen()

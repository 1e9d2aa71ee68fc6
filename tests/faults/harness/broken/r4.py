"""Broken builds for R4: a run that is asked to stop does not save, stops late, or says so wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from faults.harness.firing import broken, fire

from esper.runs import run_job
from esper.tolaria.checkpoint.checkpointer import Checkpointer
from esper.tolaria.interrupts import InterruptHandler
from esper.utils import os_signals


@contextmanager
def no_final_save() -> Iterator[None]:
    """It stops without saving."""
    save = Checkpointer.save

    def unless_final(
        store: Checkpointer, *arguments: Any, final: bool = False, **options: Any
    ) -> Path | None:
        return None if final else save(store, *arguments, **options)

    with (
        broken(Checkpointer, "save", unless_final),
        broken(Checkpointer, "save_snapshot", lambda *_, **__: None),
    ):
        yield


def heeded_at_epoch_end() -> AbstractContextManager[None]:
    """A request to stop is looked at only between two epochs."""
    between_steps = InterruptHandler.between_steps

    def at_the_end(handler: InterruptHandler) -> bool:
        return handler.progress.batch == 0 and between_steps(handler)

    return broken(InterruptHandler, "between_steps", at_the_end)


def exit_code_lost() -> AbstractContextManager[None]:
    """It saves and stops, and says that all is done."""
    return broken(run_job, "exit_code", lambda _: 0)


def sighup_unhandled() -> AbstractContextManager[None]:
    """SIGHUP kills the process, as it does without a handler."""
    fire()
    kept = {number: reason for number, reason in os_signals.REASONS.items() if reason != "sighup"}
    return _with(os_signals, "REASONS", kept)


def stopped_an_older_save() -> AbstractContextManager[None]:
    """What is saved last is the last whole epoch: the steps since then are lost."""
    save = Checkpointer.save

    def only_whole(store: Checkpointer, progress: Any, **options: Any) -> Path | None:
        return None if progress.batch else save(store, progress, **options)

    return broken(Checkpointer, "save", only_whole)


@contextmanager
def _with(owner: object, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)

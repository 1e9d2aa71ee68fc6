"""Broken builds for R14: what is not finite is not noticed, or the rollback is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from faults.harness.firing import broken

from esper.tolaria.safety import guard
from esper.tolaria.safety.governor import Governor
from esper.tolaria.state.manager import Collected, StateManager


@contextmanager
def unwatched() -> Iterator[None]:
    """Neither losses nor weights are judged."""
    with broken(Governor, "judge", lambda *_: ""), broken(guard, "non_finite", lambda _: []):
        yield


def losses_unjudged() -> AbstractContextManager[None]:
    """Only weights are looked at, losses and gradients are not."""
    return broken(Governor, "judge", lambda *_: "")


def snapshots_not_copied() -> AbstractContextManager[None]:
    """A snapshot holds the run's own tensors, and training writes into them."""
    return broken(Collected, "copy", lambda collected, _: collected.tensors)


def meter_not_restored() -> AbstractContextManager[None]:
    """A rollback brings all back but the sums of the present epoch."""
    return _not_restored("meter")


def position_not_restored() -> AbstractContextManager[None]:
    """A rollback brings all back but the position in the run."""
    return _not_restored("run")


def _not_restored(owner: str) -> AbstractContextManager[None]:
    restore = StateManager.restore

    def all_but_one(manager: StateManager, tensors: Any, state: Any, **options: Any) -> None:
        kept = manager.owners
        manager.owners = {name: held for name, held in kept.items() if name != owner}
        try:
            restore(manager, tensors, state, **options)
        finally:
            manager.owners = kept

    return broken(StateManager, "restore", all_but_one)

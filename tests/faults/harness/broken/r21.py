"""Broken builds for R21: what a rollback has decided does not survive a kill, or is logged too early."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from faults.harness.firing import broken

from esper.leyline import EventName, SeedStage
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.checkpoint.checkpointer import Checkpointer
from esper.tolaria.recovery.guard import DivergenceGuard


def not_saved() -> AbstractContextManager[None]:
    """Nothing is saved at a rollback: the next regular save has to do."""
    return broken(Checkpointer, "save_rollback", lambda *_: True)


def logged_too_early() -> AbstractContextManager[None]:
    """A rollback is logged before it is durable."""
    save = Checkpointer.save_rollback

    def log_and_save(
        store: Checkpointer, progress: Any, records: Any, failed_step: int, event: Mapping[str, Any]
    ) -> bool:
        store.telemetry.warn(EventName.ROLLBACK_DONE, event)
        store.poll()
        time.sleep(0.05)
        return save(store, progress, records, failed_step, event)

    return broken(Checkpointer, "save_rollback", log_and_save)


def rates_forgotten() -> AbstractContextManager[None]:
    """A resumed run has its full learning rates."""
    return _after_restore(lambda store: setattr(store.registry.owners["schedule"], "scale", 1.0))


def embargo_forgotten() -> AbstractContextManager[None]:
    """A resumed run may use the slots that a rollback has barred."""

    def release(store: Checkpointer) -> None:
        for row in store.components.model.records.values():
            for record in row:
                if record.stage is SeedStage.EMBARGOED:
                    record.embargo_until_epoch = 0

    return _after_restore(release)


def count_forgotten() -> AbstractContextManager[None]:
    """A resumed run counts its rollbacks from 0."""
    return _after_restore(lambda store: setattr(store.registry.owners["recovery"], "rollbacks", 0))


def not_logged_again() -> AbstractContextManager[None]:
    """What is cut off the events at a restart, the rollback among it, is not logged again."""
    return broken(Checkpointer, "_log_rollback", lambda *_: None)


def snapshot_not_replaced() -> AbstractContextManager[None]:
    """The next rollback goes back to the state without the decisions of the last."""
    return broken(DivergenceGuard, "rolled_back", DivergenceGuard.mark_good)


def _after_restore(change: Callable[[Checkpointer], None]) -> AbstractContextManager[None]:
    restore = Checkpointer.restore

    def restored(store: Checkpointer, checkpoint: Checkpoint) -> None:
        restore(store, checkpoint)
        change(store)

    return broken(Checkpointer, "restore", restored)

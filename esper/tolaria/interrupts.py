"""Where the loop looks up from its work: wishes to stop, to wait, to save, answered at any batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from esper.errors import CheckpointError
from esper.tolaria.checkpoint.checkpointer import Checkpointer
from esper.tolaria.checkpoint.metadata import name_of
from esper.tolaria.checkpoint.snapshots import Snapshot
from esper.tolaria.run_control import RunControl
from esper.tolaria.train_state import Progress


class RunInterrupted(BaseException):
    """A phase was left in its midst, because the run is to end for this reason."""


class InterruptHandler:
    """Polls the wishes in the loop's name.

    Between two steps the run may be saved as it is. Inside a phase (validation, health, impact, decisions,
    test) only what was before it can be: `enter` says what that is, and where it is nothing the phase is
    finished first. `prepare` is called before the run is saved as it is.
    """

    def __init__(
        self, run_control: RunControl, store: Checkpointer, progress: Progress, prepare: Callable[[], None]
    ) -> None:
        self.run_control = run_control
        self.store = store
        self.progress = progress
        self.prepare = prepare
        self.before: Snapshot | None = None
        self._may_leave = False

    def between_steps(self) -> bool:
        """Wait while the run is paused; True where it is to end."""
        return self.run_control.poll(self._save_as_it_is)

    def enter(self, before: Snapshot | None, *, may_leave: bool) -> None:
        """Begin a phase; `before` is the state it began with, where that was kept."""
        self.before, self._may_leave = before, may_leave

    def within(self) -> None:
        """Wait while the run is paused; raises `RunInterrupted` where it must end and may do so here."""
        if self.run_control.poll(self._save_what_was) and self._may_leave:
            raise RunInterrupted(self.run_control.stop_reason)

    def end(self) -> None:
        """The run is over, and saved: whoever still waits for a checkpoint gets that one."""
        self.answer()
        self.run_control.reject("the run has ended: there is nothing more to be saved")

    def answer(self) -> None:
        """Tell everybody who asked for a checkpoint what became of the one of this moment."""
        saved = self.store.holds(self.progress.to_json())
        self._settle(self.run_control.asked(), name_of(self.progress.to_json()) if saved else None)

    def _save_as_it_is(self) -> None:
        if self.run_control.pending:
            self.prepare()
            self.store.save(self.progress, final=True)
            self.answer()

    def _save_what_was(self) -> None:
        if self.run_control.pending and self.before is not None:
            asked, then = self.run_control.asked(), self.before.state["run"]["progress"]
            self.store.save_snapshot(self.before)
            self._settle(asked, name_of(then) if self.store.holds(then) else None)

    def _settle(self, asked: list[Future[str]], name: str | None) -> None:
        for wish in asked:
            if name is not None:
                wish.set_result(name)
            else:
                off = "" if self.store.config.checkpoint.save_checkpoints else ": save_checkpoints is false"
                wish.set_exception(
                    CheckpointError(f"no checkpoint could be saved{off}; events.jsonl says why")
                )

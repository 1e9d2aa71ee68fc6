"""Handles stop, pause and checkpoint requests within the training loop."""

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
    """A phase was interrupted because of a stop request; the message is its reason."""


class InterruptHandler:
    """Polls the run control between steps and inside phases.

    Between two steps the current state can be saved. Inside a phase (validation, health, impact, decisions,
    test) only the state at the phase's start can be, if `enter` was given one; without one the phase is
    finished first.

    Args:
        run_control: the source of requests.
        checkpointer: saves the run.
        progress: the loop's counters.
        prepare: called before the current state is saved.
    """

    def __init__(
        self,
        run_control: RunControl,
        checkpointer: Checkpointer,
        progress: Progress,
        prepare: Callable[[], None],
    ) -> None:
        self.run_control = run_control
        self.checkpointer = checkpointer
        self.progress = progress
        self.prepare = prepare
        self.phase_start: Snapshot | None = None
        self._interruptible = False

    def between_steps(self) -> bool:
        """Wait while the run is paused. Returns True if the run must end."""
        return self.run_control.poll(self._save_current)

    def enter(self, phase_start: Snapshot | None, *, interruptible: bool) -> None:
        """Begin a phase.

        Args:
            phase_start: snapshot of the state at the phase's start, if one was taken.
            interruptible: whether a stop request may interrupt the phase.
        """
        self.phase_start, self._interruptible = phase_start, interruptible

    def poll(self) -> None:
        """Wait while the run is paused; called inside a phase.

        Raises:
            RunInterrupted: a stop was requested and the phase is interruptible.
        """
        if self.run_control.poll(self._save_phase_start) and self._interruptible:
            raise RunInterrupted(self.run_control.stop_reason)

    def end(self) -> None:
        """Answer the pending checkpoint requests with the final checkpoint, and reject later ones."""
        self.answer_requests()
        self.run_control.reject("the run has ended: there is nothing more to save")

    def answer_requests(self) -> None:
        """Resolve all pending checkpoint requests with the checkpoint of the current position."""
        saved = self.checkpointer.is_saved(self.progress.to_json())
        self._resolve(self.run_control.take_requests(), name_of(self.progress.to_json()) if saved else None)

    def _save_current(self) -> None:
        if self.run_control.pending:
            self.prepare()
            self.checkpointer.save(self.progress, final=True)
            self.answer_requests()

    def _save_phase_start(self) -> None:
        if self.run_control.pending and self.phase_start is not None:
            requests, progress = self.run_control.take_requests(), self.phase_start.state["run"]["progress"]
            self.checkpointer.save_snapshot(self.phase_start)
            self._resolve(requests, name_of(progress) if self.checkpointer.is_saved(progress) else None)

    def _resolve(self, requests: list[Future[str]], name: str | None) -> None:
        saves = self.checkpointer.config.checkpoint.save_checkpoints
        hint = "" if saves else ": save_checkpoints is false"
        for request in requests:
            if name is not None:
                request.set_result(name)
            else:
                request.set_exception(
                    CheckpointError(f"no checkpoint could be saved{hint}; events.jsonl says why")
                )

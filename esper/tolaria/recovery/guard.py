"""Checks the health of a run at every step and keeps the snapshots to roll back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from esper.kasmina import MorphableModel
from esper.leyline import EventName
from esper.tolaria.checkpoint.snapshots import Snapshot, SnapshotRefused, Snapshots
from esper.tolaria.events import Telemetry
from esper.tolaria.recovery.divergence import DivergenceDetector
from esper.tolaria.recovery.step_buffer import StepBuffer
from esper.tolaria.train_state import Progress
from esper.utils.finite import non_finite_names

# A snapshot from within an epoch is good once this many healthy steps have followed it.
TRIAL_STEPS = 8
# More good snapshots than this are of no use: a rollback takes the newest.
KEPT_SNAPSHOTS = 3


class DivergenceError(Exception):
    """A run has diverged: `reason` is a clause, `tensors` names the weights that are not finite."""

    def __init__(self, reason: str, tensors: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tensors = tuple(tensors)


class DivergenceGuard:
    """Checks buffered losses at each step, and weights before the run is saved or validated.

    The state is the detector's history alone: buffered steps must be read before anything is saved.

    Args:
        interval_steps: steps between snapshots within an epoch; None takes none there.
        loss: the loss if it is a module, whose weights are checked as well.
    """

    def __init__(
        self,
        model: MorphableModel,
        progress: Progress,
        step_buffer: StepBuffer,
        detector: DivergenceDetector,
        snapshots: Snapshots,
        telemetry: Telemetry,
        interval_steps: int | None,
        loss: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.progress = progress
        self.step_buffer = step_buffer
        self.detector = detector
        self.snapshots = snapshots
        self.telemetry = telemetry
        self.interval_steps = interval_steps
        self._trial: list[int] = []
        self._notified = False

    def start(self) -> None:
        """Take a snapshot of the state that a run starts or resumes with; raises `DivergenceError`."""
        self.keep_good()

    def after_step(self, norm: Tensor | None) -> None:
        """Buffer a step and check when due; raises `DivergenceError` if a step was not healthy."""
        if self.step_buffer.end_step(norm):
            self.check()

    def between_steps(self, inside_epoch: bool) -> None:
        """Take a snapshot if one is due within the epoch."""
        if inside_epoch and self.interval_steps and self.progress.step % self.interval_steps == 0:
            self.check()
            if self._keep() is not None:
                self._trial.append(self.progress.step)

    def check(self) -> None:
        """Check all buffered steps; raises `DivergenceError`."""
        seen = self.step_buffer.read()
        for step, (loss, norm) in enumerate(seen, self.progress.step - len(seen) + 1):
            # None: no label in the step counted, and nothing was learned
            if loss is not None and (wrong := self.detector.check(loss, norm)):
                raise DivergenceError(f"{wrong} at step {step}")
        while self._trial and self._trial[0] + TRIAL_STEPS <= self.progress.step:
            self.snapshots.mark_good(self._trial.pop(0))

    def inspect(self) -> None:
        """Check all buffered steps and the weights; raises `DivergenceError`."""
        self.check()
        bad = non_finite_names(self.model)
        if self.loss is not None:
            bad += [f"loss.{name}" for name in non_finite_names(self.loss)]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise DivergenceError(f"{bad[0]}{more} not finite after step {self.progress.step}", bad)

    def end_of_pass(self) -> Snapshot | None:
        """Snapshot of the state after an epoch's last step, before validation; None if it is too large."""
        return self._keep()

    def mark_good(self) -> None:
        """Mark the current step's snapshot as good, and drop those that are no longer needed."""
        self.snapshots.mark_good(self.progress.step)
        for step in self.snapshots.steps[:-KEPT_SNAPSHOTS]:
            self.snapshots.drop(step)

    def keep_good(self) -> None:
        """Take a good snapshot of the current state, which is also that of a checkpoint.

        So a run resumed from that checkpoint rolls back to the same state as one that was never stopped.
        Raises `DivergenceError`.
        """
        if self._keep() is not None:
            self.mark_good()

    def rolled_back(self) -> None:
        """Replace the snapshot that was restored by the current state, decisions included.

        The next rollback starts from these decisions, as it does in a run resumed from their checkpoint.
        """
        if isinstance(self.snapshots.take(self.progress), SnapshotRefused):
            self.snapshots.drop(self.progress.step)
        self.mark_good()

    def forget(self) -> None:
        """Drop the buffered steps: a rollback undoes them."""
        self.step_buffer.forget()
        self._trial.clear()

    def _keep(self) -> Snapshot | None:
        self.inspect()
        taken = self.snapshots.take(self.progress)
        if not isinstance(taken, SnapshotRefused):
            return taken
        if not self._notified:
            self._notified = True
            message = (
                f"no state is kept in memory: {taken.reason}; a rollback has to read the disk, and a stop "
                "during validation waits for the epoch's end"
            )
            self.telemetry.warn(EventName.NOTICE, {"message": message})
        return None

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return self.detector.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.detector.load_state_dict(state)

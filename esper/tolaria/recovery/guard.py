"""Watches a run from step to step, and keeps the states that it may be brought back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from esper.kasmina import MorphableModel
from esper.leyline import EventName
from esper.tolaria.checkpoint.snapshots import Refused, Snapshot, Snapshots
from esper.tolaria.events import Telemetry
from esper.tolaria.recovery.divergence import DivergenceDetector
from esper.tolaria.recovery.step_buffer import StepBuffer
from esper.tolaria.train_state import Progress
from esper.utils.finite import non_finite_names

# A snapshot from the midst of an epoch is good once so many healthy steps have followed it.
TRIAL_STEPS = 8
# More good snapshots than this are of no use: the run goes back to the newest.
KEPT_SNAPSHOTS = 3


class DivergenceError(Exception):
    """A run is not healthy: `reason` is a clause, `tensors` name the weights that are no numbers."""

    def __init__(self, reason: str, tensors: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tensors = tuple(tensors)


class DivergenceGuard:
    """Reads what the watch has seen, looks at the weights where the run is about to be saved or judged.

    `interval_steps` asks for snapshots inside an epoch, too; `loss` is one with parameters of its own. State
    is the governor's history alone: what the watch has not read yet has to be read before anything is saved.
    """

    def __init__(
        self,
        model: MorphableModel,
        progress: Progress,
        watch: StepBuffer,
        governor: DivergenceDetector,
        snapshots: Snapshots,
        telemetry: Telemetry,
        interval_steps: int | None,
        loss: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.progress = progress
        self.watch = watch
        self.governor = governor
        self.snapshots = snapshots
        self.telemetry = telemetry
        self.interval_steps = interval_steps
        self._trial: list[int] = []
        self._told = False

    def start(self) -> None:
        """The state that a run begins with, or is taken up with, is one to go back to; it must be sound."""
        self.keep_good()

    def after_step(self, norm: Tensor | None) -> None:
        """A step is done; raises `DivergenceError` where it, or one before it, was not healthy."""
        if self.watch.end_step(norm):
            self.look()

    def between_steps(self, inside_epoch: bool) -> None:
        """Keep a snapshot where one is due inside the epoch."""
        if inside_epoch and self.interval_steps and self.progress.step % self.interval_steps == 0:
            self.look()
            if self._keep() is not None:
                self._trial.append(self.progress.step)

    def look(self) -> None:
        """Judge all steps that have not been judged; raises `DivergenceError`."""
        seen = self.watch.read()
        for step, (loss, norm) in enumerate(seen, self.progress.step - len(seen) + 1):
            # without a loss nothing in the step counted, and nothing was learnt
            if loss is not None and (wrong := self.governor.judge(loss, norm)):
                raise DivergenceError(f"{wrong} at step {step}")
        while self._trial and self._trial[0] + TRIAL_STEPS <= self.progress.step:
            self.snapshots.good(self._trial.pop(0))

    def inspect(self) -> None:
        """Judge everything there is, the weights, too; raises `DivergenceError`."""
        self.look()
        bad = non_finite_names(self.model)
        if self.loss is not None:
            bad += [f"loss.{name}" for name in non_finite_names(self.loss)]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise DivergenceError(f"{bad[0]}{more} not finite after step {self.progress.step}", bad)

    def end_of_pass(self) -> Snapshot | None:
        """The state after an epoch's last step, before validation; None where it is too large to keep."""
        return self._keep()

    def mark_good(self) -> None:
        """The present step's snapshot has proved good; those that are no longer needed go."""
        self.snapshots.good(self.progress.step)
        for step in self.snapshots.steps[:-KEPT_SNAPSHOTS]:
            self.snapshots.drop(step)

    def keep_good(self) -> None:
        """The present state is one to go back to: that of a checkpoint, at an epoch's end or on request.

        So a run that was resumed from that checkpoint goes back to where one that was never stopped does.
        Raises `DivergenceError`.
        """
        if self._keep() is not None:
            self.mark_good()

    def rolled_back(self) -> None:
        """Replace the snapshot that the run went back to by the present state, decisions included.

        The next rollback starts from these decisions, as it does in a run resumed from their checkpoint.
        """
        if isinstance(self.snapshots.take(self.progress), Refused):
            self.snapshots.drop(self.progress.step)
        self.mark_good()

    def forget(self) -> None:
        """The run goes back: what was seen of the steps that are undone does not count."""
        self.watch.forget()
        self._trial.clear()

    def _keep(self) -> Snapshot | None:
        self.inspect()
        taken = self.snapshots.take(self.progress)
        if not isinstance(taken, Refused):
            return taken
        if not self._told:
            self._told = True
            message = (
                f"no state is kept in memory: {taken.reason}; a rollback has to read the disk, and a stop "
                "during validation waits for the epoch's end"
            )
            self.telemetry.warn(EventName.NOTICE, {"message": message})
        return None

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return self.governor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.governor.load_state_dict(state)

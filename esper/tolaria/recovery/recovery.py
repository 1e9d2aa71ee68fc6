"""Recovers a diverged run: a limited number of rollbacks with lower learning rates, then a halt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from esper.kasmina import MorphableModel, SeedRecord, TrainingPosition
from esper.leyline import EmergencyLevel, EventName, Level
from esper.tolaria.checkpoint.rollback import Rollback, RollbackResult
from esper.tolaria.cost.meter import CostMeter
from esper.tolaria.events import Telemetry
from esper.tolaria.growth.controller import GrowthController
from esper.tolaria.optimization.lr_schedule import LearningRate
from esper.tolaria.recovery.emergency_notifier import EmergencyNotifier
from esper.tolaria.recovery.guard import DivergenceError, DivergenceGuard
from esper.tolaria.recovery.suspect import find_culprit

HALTED = "emergency"


class Recovery:
    """Rolls a diverged run back to its last good state, or halts it.

    Each rollback multiplies the learning rates by `lr_factor`, removes the seed that probably caused the
    failure and embargoes its layer, to prevent a repetition. The first rollback is an emergency of
    level 2, further ones of level 3, at which the topology is not changed, until an epoch has ended beyond
    the failed step. After `max_rollbacks` the next divergence halts the run; so does a rollback that fails
    or misses its deadline. This object's state survives a rollback.

    Before training continues, the state is saved again with these decisions, and the checkpoints after it can
    no longer be resumed: a process that is killed at any moment restarts either from before the rollback or
    from after it. The undone work stays counted in FLOPs and times.
    """

    def __init__(
        self,
        model: MorphableModel,
        cost_meter: CostMeter,
        guard: DivergenceGuard,
        rollback: Rollback,
        schedule: LearningRate,
        controller: GrowthController | None,
        notifier: EmergencyNotifier,
        telemetry: Telemetry,
        rewind: Callable[[Mapping[str, Any]], None],
        *,
        max_rollbacks: int,
        lr_factor: float,
        deadline_ms: float,
        embargo_epochs: int,
    ) -> None:
        self.model = model
        self.cost_meter = cost_meter
        self.progress = cost_meter.progress
        self.guard = guard
        self.rollback = rollback
        self.schedule = schedule
        self.controller = controller
        self.notifier = notifier
        self.telemetry = telemetry
        self.rewind = rewind
        self.max_rollbacks = max_rollbacks
        self.lr_factor = lr_factor
        self.deadline_ms = deadline_ms
        self.embargo_epochs = max(1, embargo_epochs)
        self.rollbacks = 0
        self.state_valid = True
        self._failed_step = -1
        self._embargoes: dict[str, int] = {}
        if controller is not None:
            controller.conservative = self.conservative

    # -- called by the loop ----------------------------------------------------------------------

    def conservative(self) -> str:
        """Why the topology must not be changed now; empty if it may be."""
        return self.notifier.reason if self.notifier.level >= EmergencyLevel.CONSERVATIVE else ""

    def epoch_over(self) -> None:
        """End the emergency if a healthy epoch has ended beyond the failed step."""
        self.notifier.report_problems()
        if self.notifier.level is not EmergencyLevel.NONE and self.progress.step > self._failed_step:
            self.notifier.emergency.recover()

    def recover(self, fault: DivergenceError) -> None:
        """Roll back to the last good state, or halt there if rollbacks are used up or not possible."""
        failed = self.progress.step
        self._failed_step = max(self._failed_step, failed)
        if self.rollbacks < self.max_rollbacks:
            self._roll_back(fault, failed)
            return
        times = f", after {self.rollbacks} rollbacks that did not help" if self.rollbacks else ""
        result = self._restore(fault)
        self._halt(fault.reason + times + ("" if result.ok else f"; {result.error}"))
        if result.ok:
            self._commit(result, failed, {})

    # -- rollback --------------------------------------------------------------------------------

    def _roll_back(self, fault: DivergenceError, failed: int) -> None:
        records_before = [replace(record) for record in self.model.alive_records()]
        epoch = self.progress.epoch
        result = self._restore(fault)
        if not result.ok:
            late = f" within {self.deadline_ms:g} ms" if result.deadline_exceeded else ""
            self._halt(f"{fault.reason}, and no good state was brought back{late}: {result.error}")
            return
        self.rollbacks += 1
        self.schedule.reduce(self.lr_factor)
        lost = self._lost(records_before)
        culprit = self._embargo(records_before, fault, epoch)
        facts = {
            "reason": fault.reason,
            "tier": result.tier,
            "failed_step": failed,
            "latency_ms": result.latency_ms,
            "rollbacks": self.rollbacks,
            "learning_rate_scale": self.schedule.scale,
            "embargoed": culprit,
            "lost": lost,
        }
        self._escalate(fault, result)
        if self._commit(result, failed, facts):
            self.telemetry.warn(EventName.ROLLBACK_DONE, facts)

    def _escalate(self, fault: DivergenceError, result: RollbackResult) -> None:
        if result.deadline_exceeded:
            self._halt(f"{fault.reason}, and the rollback took longer than {self.deadline_ms:g} ms")
            return
        level = EmergencyLevel.ELEVATED if self.rollbacks == 1 else EmergencyLevel.CONSERVATIVE
        self.notifier.emergency.escalate(level, fault.reason)

    def _commit(self, result: RollbackResult, failed: int, event: Mapping[str, Any]) -> bool:
        """Make the rollback durable, then truncate the records; on failure halt with the disk unchanged.

        The order matters: a checkpoint after the rollback needs its records until it is abandoned.
        """
        if not self.rollback.checkpointer.save_rollback(self.progress, result.records, failed, event):
            self.state_valid = False
            self._halt("the rollback could not be saved, and a restart would undo it; events.jsonl says why")
            return False
        self.rewind(result.records)
        self.guard.rolled_back()
        return True

    def _restore(self, fault: DivergenceError) -> RollbackResult:
        """Restore the last good state, but keep this object's state, the rates' cut and the cost spent."""
        self.guard.forget()
        kept, scale, spent = self.state_dict(), self.schedule.scale, self.cost_meter.spent()
        result = self.rollback.restore(self.deadline_ms)
        self.state_valid = result.ok
        if result.ok:
            self.load_state_dict(kept)
            self.schedule.scale = scale
            self.cost_meter.charge(spent)
        else:
            facts = {"reason": result.error, "fault": fault.reason, "latency_ms": result.latency_ms}
            self.telemetry.emit(EventName.ROLLBACK_FAILED, facts, level=Level.ERROR)
        return result

    def _lost(self, records_before: Sequence[SeedRecord]) -> list[dict[str, Any]]:
        """Seeds that were added after the restored state, and so no longer exist."""
        here = {(record.key, record.germinated_step) for record in self.model.alive_records()}
        names = ("layer", "index", "blueprint", "germinated_step")
        gone = [r for r in records_before if (r.key, r.germinated_step) not in here]
        return [{name: getattr(record, name) for name in names} for record in gone]

    # -- preventing a repeated failure -----------------------------------------------------------

    def _embargo(
        self, records_before: Sequence[SeedRecord], fault: DivergenceError, failed_epoch: int
    ) -> str | None:
        """Remove the culprit, embargo its layer, and renew the embargoes that are still in force."""
        if self.controller is None:
            return None
        now = TrainingPosition(self.progress.step, self.progress.epoch)
        culprit = find_culprit(records_before, now.step, fault.tensors)
        if culprit is not None:
            self._embargoes[culprit.layer] = failed_epoch + self.embargo_epochs
            record = self.model.record(culprit.layer, culprit.index)
            if record.alive and record.germinated_step == culprit.germinated_step:
                self.controller.remove_seed(record, f"rollback: {fault.reason}", now)
        for layer, until in self._embargoes.items():
            if until > now.epoch:
                self.controller.seeds.embargo_layer(layer, until, "a seed here was part of a rollback", now)
        return None if culprit is None else culprit.key

    def _halt(self, reason: str) -> None:
        self.progress.stopped_by = HALTED
        self.notifier.emergency.escalate(EmergencyLevel.HALT, reason)

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "rollbacks": self.rollbacks,
            "failed_step": self._failed_step,
            "barred": dict(self._embargoes),
            "emergency": self.notifier.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the saved state. A halted run that a user starts again gets its rollbacks back."""
        halted = state["emergency"]["level"] == EmergencyLevel.HALT
        self.rollbacks = 0 if halted else state["rollbacks"]
        self._failed_step = state["failed_step"]
        self._embargoes = dict(state["barred"])
        self.notifier.load_state_dict(state["emergency"])

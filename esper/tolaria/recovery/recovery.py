"""What is done about an unhealthy run: back to a good state, a few times, more carefully each; or halt."""

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
from esper.tolaria.recovery.alarm import EmergencyNotifier
from esper.tolaria.recovery.guard import DivergenceError, DivergenceGuard
from esper.tolaria.recovery.suspect import find_culprit

HALTED = "emergency"


class Recovery:
    """Brings an unhealthy run back to its last good state, or halts it.

    With every rollback the learning rates are cut by `lr_factor`, and the seed that the failure is put down
    to is taken out and its layer barred, so that the run does not fall into the same hole again. The first
    rollback is an emergency of level 2, further ones are of level 3, where the network is left as it is,
    until an epoch has ended beyond the step of the failure. After `max_rollbacks` the next verdict halts the
    run, and so does a rollback that fails or misses its deadline. What is remembered here survives a restore.

    Before training goes on the state is saved again, with what was decided, and the checkpoints of the course
    that was left can no longer be resumed: a process that is killed at any moment starts again either from
    before the rollback or from after it. The work that was undone stays counted in FLOPs and times.
    """

    def __init__(
        self,
        model: MorphableModel,
        account: CostMeter,
        guard: DivergenceGuard,
        rollback: Rollback,
        schedule: LearningRate,
        control: GrowthController | None,
        alarm: EmergencyNotifier,
        telemetry: Telemetry,
        rewind: Callable[[Mapping[str, Any]], None],
        *,
        max_rollbacks: int,
        lr_factor: float,
        deadline_ms: float,
        embargo_epochs: int,
    ) -> None:
        self.model = model
        self.account = account
        self.progress = account.progress
        self.guard = guard
        self.rollback = rollback
        self.schedule = schedule
        self.control = control
        self.alarm = alarm
        self.telemetry = telemetry
        self.rewind = rewind
        self.max_rollbacks = max_rollbacks
        self.lr_factor = lr_factor
        self.deadline_ms = deadline_ms
        self.embargo_epochs = max(1, embargo_epochs)
        self.rollbacks = 0
        self.sound = True
        self._failed_step = -1
        self._barred: dict[str, int] = {}
        if control is not None:
            control.conservative = self.conservative

    # -- what the loop asks ----------------------------------------------------------------------

    def conservative(self) -> str:
        """Why the network is left as it is for now; empty where it may be changed."""
        return self.alarm.reason if self.alarm.level >= EmergencyLevel.CONSERVATIVE else ""

    def epoch_over(self) -> None:
        """A healthy epoch has ended: beyond the step where the run had failed, that is overcome."""
        self.alarm.attend()
        if self.alarm.level is not EmergencyLevel.NONE and self.progress.step > self._failed_step:
            self.alarm.emergency.recover()

    def answer(self, fault: DivergenceError) -> None:
        """Go back to the last good state; where that is no use or not possible, the run halts there."""
        failed = self.progress.step
        self._failed_step = max(self._failed_step, failed)
        if self.rollbacks < self.max_rollbacks:
            self._go_back(fault, failed)
            return
        times = f", after {self.rollbacks} rollbacks that did not help" if self.rollbacks else ""
        result = self._restore(fault)
        self._halt(fault.reason + times + ("" if result.ok else f"; {result.error}"))
        if result.ok:
            self._commit(result, failed, {})

    # -- going back ------------------------------------------------------------------------------

    def _go_back(self, fault: DivergenceError, failed: int) -> None:
        lived = [replace(record) for record in self.model.alive_records()]
        epoch = self.progress.epoch
        result = self._restore(fault)
        if not result.ok:
            late = f" within {self.deadline_ms:g} ms" if result.deadline_exceeded else ""
            self._halt(f"{fault.reason}, and no good state was brought back{late}: {result.error}")
            return
        self.rollbacks += 1
        self.schedule.cut(self.lr_factor)
        lost = self._lost(lived)
        guilty = self._embargo(lived, fault, epoch)
        facts = {
            "reason": fault.reason,
            "tier": result.tier,
            "failed_step": failed,
            "latency_ms": result.latency_ms,
            "rollbacks": self.rollbacks,
            "learning_rate_scale": self.schedule.scale,
            "embargoed": guilty,
            "lost": lost,
        }
        self._raise_alarm(fault, result)
        if self._commit(result, failed, facts):
            self.telemetry.warn(EventName.ROLLBACK_DONE, facts)

    def _raise_alarm(self, fault: DivergenceError, result: RollbackResult) -> None:
        if result.deadline_exceeded:
            self._halt(f"{fault.reason}, and the rollback took longer than {self.deadline_ms:g} ms")
            return
        level = EmergencyLevel.ELEVATED if self.rollbacks == 1 else EmergencyLevel.CONSERVATIVE
        self.alarm.emergency.escalate(level, fault.reason)

    def _commit(self, result: RollbackResult, failed: int, event: Mapping[str, Any]) -> bool:
        """Make the rollback durable, then cut the records; where that fails, halt with the disk as it is.

        The order counts: a checkpoint of the course that is left needs its records until it is abandoned.
        """
        if not self.rollback.store.save_rollback(self.progress, result.records, failed, event):
            self.sound = False
            self._halt("the rollback could not be saved, and a restart would undo it; events.jsonl says why")
            return False
        self.rewind(result.records)
        self.guard.rolled_back()
        return True

    def _restore(self, fault: DivergenceError) -> RollbackResult:
        """The last good state, with what has to outlive it: this object's memory, the cut of the rates."""
        self.guard.forget()
        kept, scale, spent = self.state_dict(), self.schedule.scale, self.account.spent()
        result = self.rollback.back(self.deadline_ms)
        self.sound = result.ok
        if result.ok:
            self.load_state_dict(kept)
            self.schedule.scale = scale
            self.account.charge(spent)
        else:
            facts = {"reason": result.error, "fault": fault.reason, "latency_ms": result.latency_ms}
            self.telemetry.emit(EventName.ROLLBACK_FAILED, facts, level=Level.ERROR)
        return result

    def _lost(self, lived: Sequence[SeedRecord]) -> list[dict[str, Any]]:
        """Seeds that were born after the state that the run is back at: they have never been."""
        here = {(record.key, record.germinated_step) for record in self.model.alive_records()}
        names = ("layer", "index", "blueprint", "germinated_step")
        gone = [r for r in lived if (r.key, r.germinated_step) not in here]
        return [{name: getattr(record, name) for name in names} for record in gone]

    # -- keeping out of the same hole ------------------------------------------------------------

    def _embargo(self, lived: Sequence[SeedRecord], fault: DivergenceError, failed_epoch: int) -> str | None:
        """Take the suspect out, bar its layer, and bar again what had been barred before."""
        if self.control is None:
            return None
        now = TrainingPosition(self.progress.step, self.progress.epoch)
        guilty = find_culprit(lived, now.step, fault.tensors)
        if guilty is not None:
            self._barred[guilty.layer] = failed_epoch + self.embargo_epochs
            record = self.model.record(guilty.layer, guilty.index)
            if record.alive and record.germinated_step == guilty.germinated_step:
                self.control.remove_seed(record, f"rollback: {fault.reason}", now)
        for layer, until in self._barred.items():
            if until > now.epoch:
                self.control.seeds.embargo_layer(layer, until, "a seed here was part of a rollback", now)
        return None if guilty is None else guilty.key

    def _halt(self, reason: str) -> None:
        self.progress.stopped_by = HALTED
        self.alarm.emergency.escalate(EmergencyLevel.HALT, reason)

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "rollbacks": self.rollbacks,
            "failed_step": self._failed_step,
            "barred": dict(self._barred),
            "emergency": self.alarm.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what is remembered. Who starts a halted run again gives it its rollbacks anew."""
        halted = state["emergency"]["level"] == EmergencyLevel.HALT
        self.rollbacks = 0 if halted else state["rollbacks"]
        self._failed_step = state["failed_step"]
        self._barred = dict(state["barred"])
        self.alarm.load_state_dict(state["emergency"])

"""The training loop of one run, from its components to its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

from torch import Tensor

from esper.config import TolariaConfig
from esper.kasmina import TopologyChange
from esper.kasmina.model_buffers import preserve_buffers
from esper.leyline import FINISHED_BY, EventName
from esper.tolaria.best_model import best_weights
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.checkpoint.registry import state_of
from esper.tolaria.components import TrainingComponents
from esper.tolaria.evaluator import Evaluation
from esper.tolaria.growth.epoch_hooks import Growth
from esper.tolaria.interrupts import RunInterrupted
from esper.tolaria.loss.objectives import compute_loss, total_loss
from esper.tolaria.profiler import StepProfiler
from esper.tolaria.records import TrainingMetrics, epoch_record
from esper.tolaria.recovery import DivergenceError
from esper.tolaria.run_control import RunControl
from esper.tolaria.task import BatchMetric, batch_length, targets_to
from esper.tolaria.wiring import RunWiring


class TrainingLoop(RunWiring):
    """Trains, grows, evaluates and saves one run.

    `train()` runs until the last epoch, an early stop or a stop request. `test()` then loads the best model
    and evaluates it once on the test set.
    """

    def __init__(
        self, config: TolariaConfig, components: TrainingComponents, run_control: RunControl | None = None
    ) -> None:
        super().__init__(config, components, run_control)
        self._profiler: StepProfiler | None = None

    # -- the loop --------------------------------------------------------------------------------

    def train(self) -> None:
        """Run epochs until the last one, an early stop or a stop request."""
        self.cost_meter.start_clock()
        with ExitStack() as resources:
            resources.callback(self.checkpointer.close)
            resources.callback(self.emergency_notifier.close)
            self._start_profiler(resources)
            self.emergency_notifier.start()
            if not any(p.requires_grad for p in self.model.parameters()):
                message = (
                    "no parameter of the model can be trained as it is (requires_grad): only seeds will be"
                )
                self.telemetry.warn(EventName.NOTICE, {"message": message})
            if not self._finished():
                with self._guarded():
                    self.guard.start()
            self.components.callbacks.on_train_start(self)
            while not self._finished():
                with self._guarded():
                    self.epoch()
            if self.growth is not None and self.progress.stopped_by in FINISHED_BY:
                self.growth.finish(self.progress, self.meter.read()[0])
            self.components.callbacks.on_train_end(self)
            self.step_metrics.flush(self.components.records)
            self.cost_meter.read_clock()
            if self.recovery.state_valid:
                self.checkpointer.save_end(self.progress)
            self.interrupts.end()

    def _finished(self) -> bool:
        p = self.progress
        if not p.stopped_by and p.epoch >= self.config.optimization.max_epochs:
            p.stopped_by = "max_epochs"
        if not p.stopped_by and self.interrupts.between_steps():
            p.stopped_by = self.run_control.stop_reason
        return bool(p.stopped_by)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Roll back if what follows diverges, undo it if it is interrupted."""
        try:
            yield
        except DivergenceError as fault:
            self.recovery.recover(fault)
        except RunInterrupted as interrupt:
            self._undo_phase(str(interrupt))

    def _undo_phase(self, reason: str) -> None:
        """Undo an interrupted phase: the run ends, and resumes, in the state before that phase."""
        before = self.interrupts.phase_start
        assert before is not None, "a phase is interrupted only if it can be undone"
        self.state.restore(before.tensors, before.state["owners"], copy=True)
        self.checkpointer.save_snapshot(before)
        self.progress.stopped_by = reason

    def epoch(self) -> None:
        """Train, validate, grow, record and save one epoch. `train` calls this until the run ends."""
        start = time.perf_counter()
        self.model.train()
        if self.progress.batch == 0:
            self._add_new_parameters()
        self._train_pass()
        self.optimizers.trainable.check()
        if self.progress.stopped_by:
            return
        self._take_snapshot()
        train = self.meter.read()
        validation = self.evaluator.run(self.val_batches.batches(0))
        is_finite = math.isfinite(validation.loss)
        if is_finite:
            self.guard.mark_good()
        improved = self._close_epoch(train, validation)
        if self.growth is not None:
            self.growth.end_of_epoch(self.progress, train[0])
            self.best.refresh()
        self._early_stop(validation)
        self._record(train, validation, time.perf_counter() - start)
        self.recovery.epoch_over()
        self.cost_meter.read_clock()
        self.interrupts.enter(None, interruptible=False)  # releases the phase's snapshot
        if is_finite:
            self.guard.keep_good()
        self.checkpointer.save(self.progress, improved=improved)

    def _add_new_parameters(self) -> None:
        """Give parameters that became trainable since the last epoch, in train mode, to the optimizer."""
        if added := self.optimizers.add_new_parameters(self.progress.step):
            shown = ", ".join(added[:3]) + (f" and {len(added) - 3} more" if len(added) > 3 else "")
            message = f"became trainable and are optimised from here on: {shown}"
            self.telemetry.emit(EventName.NOTICE, {"message": message})
            self.cost_meter.topology_changed()

    def _train_pass(self) -> None:
        """Train one epoch, starting at the position that the last epoch or a checkpoint left."""
        epoch, start = self.progress.epoch + 1, self.progress.batch
        if start == 0:
            self.meter.reset()
        if self.progress.round_due and self.growth is not None:
            self._decide_within_epoch(self.growth)
        for window in self.train_batches.windows(epoch, start, self.accumulation):
            norm = self._step(window)
            self.progress.batch += len(window)
            self.guard.after_step(norm)
            self.components.callbacks.on_step_end(self)
            if self._between_steps():
                break

    def _step(self, window: list[Any]) -> Tensor | None:
        p = self.progress
        extra = self.step_metrics.meter(p.step + 1)
        meters: list[BatchMetric] = [self.meter, self.step_buffer]
        meters += [] if extra is None else [extra]
        before = self.meter.samples
        norm = self.stepper.step(window, meters, p.step, return_norm=True)
        p.step += 1
        self.telemetry.step = p.step
        self.cost_meter.step(self.meter.samples - before, self.tasks.passes if self.tasks else 1)
        if extra is not None:
            conflicts = self.tasks.conflict_stats.last() if self.tasks else None
            self.step_metrics.add(p.step, extra, norm, conflicts)
        return norm

    def _between_steps(self) -> bool:
        """Do everything that is due between two steps. Returns True if the run must end."""
        ended_blend = self.seeds.tick()
        if self._profiler is not None:
            self._profiler.step()
        if self.growth is not None:
            interval = self.decision_interval
            inside = self.progress.batch < len(self.train_batches)
            if inside and (ended_blend or (interval and self.progress.step % interval == 0)):
                self._decide_within_epoch(self.growth)
        self.guard.between_steps(self.progress.batch < len(self.train_batches))
        done = math.ceil(self.progress.batch / self.accumulation)
        callback = self.components.progress_callback
        self.measurements.take("the progress display", lambda: callback.progress(done, None))
        if self.interrupts.between_steps():
            self.progress.stopped_by = self.run_control.stop_reason
            return self.progress.batch < len(self.train_batches)
        return False

    def _decide_within_epoch(self, growth: Growth) -> None:
        """Make a round of decisions between two steps.

        With a lookahead the round can be interrupted; a resumed run then repeats it.
        """
        if growth.controller.select is not None:
            self.progress.round_due = True
            self._take_snapshot()
            self.progress.round_due = False
        growth.within_epoch(self.progress, self.meter.read()[0])
        self.interrupts.enter(None, interruptible=False)

    def _take_snapshot(self) -> None:
        """Take a snapshot after the epoch's last step, so that the phases that follow can be interrupted."""
        self.step_metrics.flush(self.components.records)
        before = self.guard.end_of_pass()
        self.interrupts.enter(before, interruptible=before is not None)

    def _close_epoch(self, train: tuple[float, float | None], validation: Evaluation) -> bool:
        self.progress.epoch += 1
        self.progress.batch = 0
        self.telemetry.epoch = self.progress.epoch
        self.history.add(
            {
                "train_loss": train[0],
                "val_loss": validation.loss,
                "train_accuracy": train[1],
                "val_accuracy": validation.accuracy,
            }
        )
        return self.best.consider(self.progress.epoch, validation.loss, validation.accuracy)

    def _early_stop(self, validation: Evaluation) -> None:
        if self.early_stopping.update(validation.loss) and not self.progress.stopped_by:
            self.progress.stopped_by = "early_stopping"
            self.telemetry.emit(EventName.EARLY_STOPPED, {"waited_epochs": self.early_stopping.waited})

    def _record(self, train: tuple[float, float | None], validation: Evaluation, epoch_time: float) -> None:
        stats = self.tasks.conflict_stats if self.tasks else None
        telemetry, take = self.telemetry, self.measurements.take
        aggregated = take("the report on tasks", lambda: stats.flush(telemetry)) if stats else None
        self.report_steps()
        record = epoch_record(
            self.progress,
            TrainingMetrics(*train, self.meter.objectives(), aggregated),
            validation,
            self.seeds,
            learning_rate=self.optimizers.main.param_groups[0]["lr"],
            epoch_time=epoch_time,
            growing=self.growth is not None,
        )
        self.components.callbacks.on_epoch_end(self, MappingProxyType(dict(record)))
        if self.config.logging.track_metrics:
            self.step_metrics.flush(self.components.records)
            self.components.records.epoch(record)

    def _topology_changed(self, change: TopologyChange) -> None:
        super()._topology_changed(change)
        self.components.callbacks.on_topology_change(self, change)

    def _start_profiler(self, resources: ExitStack) -> None:
        c = self.config
        if c.profile_training and c.trainer.profiler_dir is not None:
            self._profiler = StepProfiler(
                self.components.run_dir / c.trainer.profiler_dir,
                c.trainer.profiler_active_steps,
                lambda reason: self.telemetry.warn(EventName.PROFILER_EXPORT_FAILED, {"reason": reason}),
            )
            resources.callback(self._profiler.close)

    def dry_run(self) -> float:
        """Run one batch forward and backward without an optimizer step. Returns its loss."""
        args, kwargs, targets = self.components.batch_adapter(next(iter(self.train_batches.batches(1))))
        with self.precision.autocast():
            output = self.forward(batch_length(targets), args, kwargs)
            losses = compute_loss(self.components.loss, output, targets_to(targets, output))
            loss = total_loss(losses, self.combine_losses)
        self.precision.backward(loss)
        return loss.item()

    # -- the end ---------------------------------------------------------------------------------

    def load_model(self, checkpoint: Checkpoint) -> None:
        """Load only the best model of a checkpoint, and the learned state of its loss, for evaluation."""
        owners = checkpoint.state["owners"]
        self.best.score.load(owners["best"]["mark"])
        self.model.load_state_dict(best_weights(checkpoint))
        best = state_of("best", checkpoint.tensors, owners)
        if learned := best.get("loss") or state_of("loss", checkpoint.tensors, owners):
            self.loss_state.load_state_dict(learned)
        self.progress.load(owners["run"]["progress"])

    def why_unsaved(self) -> str:
        """Why the run could not be resumed from where it ended, as a sentence; empty if it can."""
        return self.checkpointer.why_unsaved(self.progress)

    def test(self) -> Evaluation | None:
        """Load the best model with its topology and evaluate it on the test set.

        Returns:
            The evaluation, or None if a stop request interrupted it (`progress.stopped_by` is the reason).
        """
        self.best.restore()
        self.interrupts.enter(None, interruptible=True)
        try:
            with preserve_buffers(self.model):  # saved as it was validated
                return self.evaluator.run(self.components.test.batches(0))
        except RunInterrupted as interrupt:
            self.progress.stopped_by = str(interrupt)
            return None
        finally:
            self.interrupts.enter(None, interruptible=False)

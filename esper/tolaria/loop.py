"""One run, from its parts to its end; read it from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from esper.config import TolariaConfig
from esper.kasmina.model_buffers import preserve_buffers
from esper.leyline import FINISHED_BY, EventName
from esper.tolaria.best_model import best_weights
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.checkpoint.registry import state_of
from esper.tolaria.components import TrainingComponents
from esper.tolaria.evaluator import Evaluation
from esper.tolaria.growth.epoch_hooks import Growth
from esper.tolaria.interrupts import RunInterrupted
from esper.tolaria.loss.objectives import compute_loss, in_total
from esper.tolaria.profiler import StepProfiler
from esper.tolaria.records import epoch_record
from esper.tolaria.recovery import DivergenceError
from esper.tolaria.run_control import RunControl
from esper.tolaria.task import BatchMetric, batch_length, targets_to
from esper.tolaria.wiring import Machinery


class TrainingLoop(Machinery):
    """Trains, grows, evaluates and saves.

    `train()` runs to the end (or to where it was asked to stop); `test()` then puts the best model in
    place and reads the test set, once.
    """

    def __init__(
        self, config: TolariaConfig, parts: TrainingComponents, run_control: RunControl | None = None
    ) -> None:
        super().__init__(config, parts, run_control)
        self._profiler: StepProfiler | None = None

    # -- the loop --------------------------------------------------------------------------------

    def train(self) -> None:
        """Run epochs until the last one, an early stop, or a wish to stop."""
        self.account.start_clock()
        with ExitStack() as owned:
            owned.callback(self.store.close)
            owned.callback(self.alarm.close)
            self._start_profiler(owned)
            self.alarm.start()
            if not any(p.requires_grad for p in self.model.parameters()):
                message = (
                    "no parameter of the model can be trained as it is (requires_grad): only seeds will be"
                )
                self.telemetry.warn(EventName.NOTICE, {"message": message})
            if not self._finished():
                self._guarded(self.guard.start)
            while not self._finished():
                self._guarded(self.epoch)
            if self.growth is not None and self.progress.stopped_by in FINISHED_BY:
                self.growth.finish(self.progress, self.meter.read()[0])
            self.lines.flush(self.parts.records)
            self.account.read_clock()
            if self.recovery.sound:
                self.store.save_end(self.progress)
            self.attention.end()

    def _finished(self) -> bool:
        p = self.progress
        if not p.stopped_by and p.epoch >= self.config.optimization.max_epochs:
            p.stopped_by = "max_epochs"
        if not p.stopped_by and self.attention.between_steps():
            p.stopped_by = self.run_control.stop_reason
        return bool(p.stopped_by)

    def _guarded(self, part: Callable[[], None]) -> None:
        """Do a part of the run; where it turns out unhealthy, go back, and where it is broken off, save."""
        try:
            part()
        except DivergenceError as fault:
            self.recovery.answer(fault)
        except RunInterrupted as wish:
            self._leave(str(wish))

    def _leave(self, reason: str) -> None:
        """Undo a phase that was broken off: the run ends, and is taken up, as it was before that phase."""
        before = self.attention.before
        assert before is not None, "a phase is left only where it can be undone"
        self.state.restore(before.tensors, before.state["owners"], copy=True)
        self.store.save_snapshot(before)
        self.progress.stopped_by = reason

    def epoch(self) -> None:
        """Train, validate, grow, record and save, once; `train` calls it until the run is over."""
        began = time.perf_counter()
        self.model.train()
        if self.progress.batch == 0:
            self._pick_up()
        self._train_pass()
        self.optimizers.trainable.check()
        if self.progress.stopped_by:
            return
        self._keep_state()
        trained = self.meter.read()
        validation = self.evaluator.run(self.val_batches.batches(0))
        good = math.isfinite(validation.loss)
        if good:
            self.guard.mark_good()
        improved = self._close_epoch(trained, validation)
        if self.growth is not None:
            self.growth.end_of_epoch(self.progress, trained[0])
            self.best.refresh()
        self._early_stop(validation)
        self._record(trained, validation, time.perf_counter() - began)
        self.recovery.epoch_over()
        self.account.read_clock()
        self.attention.enter(None, may_leave=False)  # the snapshot that it had may go now
        if good:
            self.guard.keep_good()
        self.store.save(self.progress, improved=improved)

    def _pick_up(self) -> None:
        """Optimise what has become trainable since the last epoch began, in the model's train(), too."""
        if late := self.optimizers.pick_up(self.progress.step):
            shown = ", ".join(late[:3]) + (f" and {len(late) - 3} more" if len(late) > 3 else "")
            message = f"became trainable and are optimised from here on: {shown}"
            self.telemetry.emit(EventName.NOTICE, {"message": message})
            self.account.topology_changed()

    def _train_pass(self) -> None:
        """One epoch of steps, from the position that the last one (or a checkpoint) left."""
        epoch, start = self.progress.epoch + 1, self.progress.batch
        if start == 0:
            self.meter.reset()
        if self.progress.round_due and self.growth is not None:
            self._decide_inside(self.growth)
        for window in self.train_batches.windows(epoch, start, self.accumulation):
            norm = self._step(window)
            self.progress.batch += len(window)
            self.guard.after_step(norm)
            if self._between_steps():
                break

    def _step(self, window: list[Any]) -> Tensor | None:
        p = self.progress
        extra = self.lines.meter(p.step + 1)
        meters: list[BatchMetric] = [self.meter, self.watch]
        meters += [] if extra is None else [extra]
        before = self.meter.samples
        norm = self.stepper.step(window, meters, p.step, want_norm=True)
        p.step += 1
        self.telemetry.step = p.step
        self.account.step(self.meter.samples - before, self.tasks.passes if self.tasks else 1)
        if extra is not None:
            self.lines.add(p.step, extra, norm, self.tasks.tally.last() if self.tasks else None)
        return norm

    def _between_steps(self) -> bool:
        """Everything that may happen between two steps; True where the run is to end."""
        ended_blend = self.seeds.tick()
        if self._profiler is not None:
            self._profiler.step()
        if self.growth is not None:
            interval = self.decision_interval
            inside = self.progress.batch < len(self.train_batches)
            if inside and (ended_blend or (interval and self.progress.step % interval == 0)):
                self._decide_inside(self.growth)
        self.guard.between_steps(self.progress.batch < len(self.train_batches))
        done = math.ceil(self.progress.batch / self.accumulation)
        self.measurements.take("the live display", lambda: self.parts.watcher.progress(done, None))
        if self.attention.between_steps():
            self.progress.stopped_by = self.run_control.stop_reason
            return self.progress.batch < len(self.train_batches)
        return False

    def _decide_inside(self, growth: Growth) -> None:
        """A round of decisions between two steps; where it looks ahead it can be left, and is done over."""
        if growth.control.choose is not None:
            self.progress.round_due = True
            self._keep_state()
            self.progress.round_due = False
        growth.inside_epoch(self.progress, self.meter.read()[0])
        self.attention.enter(None, may_leave=False)

    def _keep_state(self) -> None:
        """Keep what the epoch's last step left, so that all that is still to come in it can be broken off."""
        self.lines.flush(self.parts.records)
        before = self.guard.end_of_pass()
        self.attention.enter(before, may_leave=before is not None)

    def _close_epoch(self, trained: tuple[float, float | None], validation: Evaluation) -> bool:
        self.progress.epoch += 1
        self.progress.batch = 0
        self.telemetry.epoch = self.progress.epoch
        self.history.add(
            {
                "train_loss": trained[0],
                "val_loss": validation.loss,
                "train_accuracy": trained[1],
                "val_accuracy": validation.accuracy,
            }
        )
        return self.best.consider(self.progress.epoch, validation.loss, validation.accuracy)

    def _early_stop(self, validation: Evaluation) -> None:
        if self.early.update(validation.loss) and not self.progress.stopped_by:
            self.progress.stopped_by = "early_stopping"
            self.telemetry.emit(EventName.EARLY_STOPPED, {"waited_epochs": self.early.waited})

    def _record(self, trained: tuple[float, float | None], validation: Evaluation, epoch_time: float) -> None:
        tasks, telemetry, take = self.tasks, self.telemetry, self.measurements.take
        aggregated = take("the report on tasks", lambda: tasks.tally.flush(telemetry)) if tasks else None
        self.report_steps()
        if not self.config.logging.track_metrics:
            return
        self.lines.flush(self.parts.records)
        self.parts.records.epoch(
            epoch_record(
                self.progress,
                trained,
                validation,
                self.seeds,
                learning_rate=self.optimizers.main.param_groups[0]["lr"],
                epoch_time=epoch_time,
                growing=self.growth is not None,
                objectives=self.meter.objectives(),
                aggregated=aggregated,
            )
        )

    def _start_profiler(self, owned: ExitStack) -> None:
        c = self.config
        if c.profile_training and c.trainer.profiler_dir is not None:
            self._profiler = StepProfiler(
                self.parts.run_dir / c.trainer.profiler_dir,
                c.trainer.profiler_active_steps,
                lambda why: self.telemetry.warn(EventName.PROFILER_EXPORT_FAILED, {"reason": why}),
            )
            owned.callback(self._profiler.close)

    def dry_run(self) -> float:
        """One batch forward and backward, without a step; returns its loss."""
        args, kwargs, targets = self.parts.form(next(iter(self.train_batches.batches(1))))
        with self.precision.autocast():
            output = self.forward(batch_length(targets), args, kwargs)
            losses = compute_loss(self.parts.loss, output, targets_to(targets, output))
            loss = in_total(losses, self.total)
        self.precision.backward(loss)
        return loss.item()

    # -- the end ---------------------------------------------------------------------------------

    def load_model(self, checkpoint: Checkpoint) -> None:
        """Take only the best model of a checkpoint, and what its loss had learnt by then, to evaluate it."""
        owners = checkpoint.state["owners"]
        self.best.mark.load(owners["best"]["mark"])
        self.model.load_state_dict(best_weights(checkpoint))
        best = state_of("best", checkpoint.tensors, owners)
        if learnt := best.get("loss") or state_of("loss", checkpoint.tensors, owners):
            self.loss_state.load_state_dict(learnt)
        self.progress.load(owners["run"]["progress"])

    def why_unsaved(self) -> str:
        """Why the place where the run ended could not be taken up from its folder; empty where it could."""
        return self.store.why_unsaved(self.progress)

    def test(self) -> Evaluation | None:
        """Put the best model, with its topology, in place and read the test set.

        None where somebody wanted the run to end meanwhile; `progress.stopped_by` then says so.
        """
        self.best.restore()
        self.attention.enter(None, may_leave=True)
        try:
            with preserve_buffers(
                self.model
            ):  # what is saved at the end is the best model, and not one after it
                return self.evaluator.run(self.parts.test.batches(0))
        except RunInterrupted as wish:
            self.progress.stopped_by = str(wish)
            return None
        finally:
            self.attention.enter(None, may_leave=False)

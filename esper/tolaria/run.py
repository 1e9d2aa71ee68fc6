"""One run, from its parts to its end; read it from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from esper.config import TolariaConfig
from esper.kasmina import HealthMonitor, SeedManager, TopologyChange
from esper.leyline import EventName
from esper.tolaria.account import Account
from esper.tolaria.batches import BatchSource
from esper.tolaria.best import BestModel, best_weights
from esper.tolaria.control import ControlLoop
from esper.tolaria.evaluate import Evaluation, Evaluator
from esper.tolaria.foresight import Lookahead, Scout
from esper.tolaria.forward import TrainingForward
from esper.tolaria.growth import Growth
from esper.tolaria.lines import StepLines, epoch_line
from esper.tolaria.optimizer import OptimizerManager
from esper.tolaria.packet import History, PacketBuilder
from esper.tolaria.parts import Parts
from esper.tolaria.precision import Precision
from esper.tolaria.probe import Probe
from esper.tolaria.profiler import StepProfiler
from esper.tolaria.progress import EarlyStopping, Progress
from esper.tolaria.room import FlopRoom, decision_interval
from esper.tolaria.schedule import Horizon
from esper.tolaria.signals import Wishes
from esper.tolaria.state import Checkpoint, Generators, StateManager
from esper.tolaria.state.store import Store
from esper.tolaria.step import Stepper
from esper.tolaria.task import Meter, batch_length, follow
from esper.tolaria.telemetry import Telemetry


class Run:
    """Trains, grows, evaluates and saves; owns the loop's state.

    `wishes` is how others ask it to stop or pause. `train()` runs to the end (or to where it was asked
    to stop); `test()` then puts the best model in place and reads the test set, once.
    """

    def __init__(self, config: TolariaConfig, parts: Parts, wishes: Wishes | None = None) -> None:
        self.config = config
        self.parts = parts
        self.wishes = wishes or Wishes()
        self.model = parts.model
        self.progress = Progress()
        self.telemetry = Telemetry(parts.records)
        limits = config.trainer
        self.train_batches = BatchSource(
            parts.train, limit=limits.limit_train_batches, repeat_first=config.overfit_one_batch
        )
        # overfitting one batch is judged on that batch: the question is whether it can be learnt
        held_out = parts.train if config.overfit_one_batch else parts.validation
        self.val_batches = BatchSource(
            held_out,
            limit=1 if config.overfit_one_batch else limits.limit_val_batches,
            repeat_first=config.overfit_one_batch,
        )
        self.accumulation = config.optimization.accumulation_steps
        self.steps_per_epoch = math.ceil(len(self.train_batches) / self.accumulation)
        self.meter = Meter(parts.device)
        self.precision = Precision(config.mixed_precision, parts.device)
        self.probe = Probe(
            self.model,
            self.val_batches,
            parts.form,
            parts.loss,
            self.precision,
            config.morphogenetic.seed,
            device=parts.device,
            rng_seed=config.seed,
        )
        wanted = config.logging.step_interval if config.logging.track_metrics else 0
        self.lines = StepLines(wanted, parts.device)
        self._build_loop()
        self._register_state()
        self._profiler: StepProfiler | None = None

    # -- wiring ----------------------------------------------------------------------------------

    def _build_loop(self) -> None:
        c, parts = self.config, self.parts
        o, seed = c.optimization, c.morphogenetic.seed
        self.seeds = SeedManager(self.model, seed)
        self.optimizers = OptimizerManager(
            self.model,
            parts.optimizer,
            lr=o.learning_rate,
            seed_lr=o.learning_rate * seed.learning_rate_scale,
            isolation_lr=seed.isolation_learning_rate,
            warmup_steps=seed.warmup_steps,
        )
        self.forward = TrainingForward(
            self.model,
            compile_model=c.compile_model,
            backend=c.trainer.compile_backend,
            batch_size=parts.train.batch_size,
            on_fallback=lambda why: self.telemetry.warn(EventName.COMPILE_FALLBACK, {"reason": why}),
        )
        self.stepper = Stepper(
            self.forward,
            self.optimizers,
            self.seeds,
            parts.schedule(Horizon(self.steps_per_epoch * o.max_epochs, self.steps_per_epoch)),
            parts.loss,
            parts.form,
            self.precision,
            o.gradient_clip_norm,
        )
        self.evaluator = Evaluator(
            self.model, parts.loss, parts.form, self.precision, parts.device, rng_seed=c.seed
        )
        self.account = Account(self.model, self.progress, self.probe)
        self.early = EarlyStopping(o.early_stopping_patience, o.early_stopping_min_delta)
        self.best = BestModel(self.model)
        self.history = History(c.morphogenetic.performance_window)
        self.growth = self._build_growth() if parts.tamiyo is not None else None

    def _build_growth(self) -> Growth:
        c, m = self.config, self.config.morphogenetic
        assert self.parts.tamiyo is not None
        flops = FlopRoom(self.model, lambda: self.account.per_sample()[0], m.max_flops_ratio)
        packets = PacketBuilder(
            self.seeds,
            session_name=c.session_name,
            blueprints=m.blueprints,
            max_params_ratio=m.max_params_ratio,
            max_epochs=c.optimization.max_epochs,
            steps_per_epoch=self.steps_per_epoch,
            history=self.history,
            on_broken=lambda why: self.telemetry.warn(EventName.KASMINA_ERROR, {"reason": why}),
            flops=flops,
        )
        control = ControlLoop(
            self.parts.tamiyo,
            self.seeds,
            self.optimizers,
            self.telemetry,
            m,
            max_params=packets.max_params,
            hook_budget_ms=c.trainer.hook_budget_ms,
            on_structure=self._topology_changed,
            flops=flops,
            choose=self._scout().choose if m.lookahead_steps else None,
        )
        monitor = HealthMonitor(self.model, m.performance_window) if self.model.telemetry_enabled else None
        return Growth(
            control,
            packets,
            monitor,
            self.evaluator,
            self.probe,
            self.telemetry,
            self.account,
            m,
        )

    def _scout(self) -> Scout:
        lookahead = Lookahead(
            self.model,
            self.train_batches,
            self.probe,
            self.parts.loss,
            self.parts.form,
            self.parts.optimizer,
            self.precision,
            self.account,
            device=self.parts.device,
            rng_seed=self.config.seed,
        )
        main = self.optimizers.main
        return Scout(
            lookahead,
            self.progress,
            self.config.morphogenetic.lookahead_steps,
            lambda: main.param_groups[0]["base_lr"],
        )

    def _register_state(self) -> None:
        self.state = StateManager()
        self.state.register("model", self.model)
        self.state.register("optimizers", self.optimizers)
        self.state.register("scaler", self.precision)
        self.state.register("meter", self.meter)
        self.state.register("run", self)
        self.state.register("best", self.best)
        self.state.register("generators", Generators())
        if self.growth is not None:
            self.state.register("seeds", self.seeds)
            if self.config.checkpoint.save_morphogenetic_state:
                self.state.register("history", self.history)
                self.state.register("control", self.growth.control)
                self.state.register("growth", self.growth)
                if self.growth.monitor is not None:
                    self.state.register("health", self.growth.monitor)
        self.store = Store(self.config, self.parts, self.state, self.telemetry)

    def state_dict(self) -> dict[str, Any]:
        """The loop's own part of the state; the owners registered beside it have theirs."""
        counters = self.model.counters
        return {
            "progress": self.progress.to_json(),
            "early": self.early.to_json(),
            "forwards": counters.forwards,
            "kernels": counters.kernels,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.progress.load(state["progress"])
        self.early.load(state["early"])
        self.model.counters.forwards, self.model.counters.kernels = state["forwards"], state["kernels"]
        self.telemetry.step, self.telemetry.epoch = self.progress.step, self.progress.epoch
        # a wish to stop was for the run that was saved; patience is judged anew, it may have been raised
        self.progress.stopped_by = "early_stopping" if self.early.over else ""
        self._forward_changed()

    # -- the loop --------------------------------------------------------------------------------

    def _topology_changed(self, change: TopologyChange) -> None:
        self._forward_changed()
        self.early.restart()
        self.best.topology_changed()

    def _forward_changed(self) -> None:
        self.account.topology_changed()
        self.forward.topology_changed(listening=bool(self.seeds.isolated))

    def train(self) -> None:
        """Run epochs until the last one, an early stop, or a wish to stop."""
        self.account.start_clock()
        with ExitStack() as owned:
            self._start_profiler(owned)
            while not self._finished():
                self.epoch()
        self.lines.flush(self.parts.records)
        self.account.read_clock()
        self.store.save(self.progress, final=True)

    def _finished(self) -> bool:
        if not self.progress.stopped_by and self.progress.epoch >= self.config.optimization.max_epochs:
            self.progress.stopped_by = "max_epochs"
        return bool(self.progress.stopped_by)

    def epoch(self) -> None:
        """One epoch in the order of the specification (T1); `train` calls it until the run is over."""
        began = time.perf_counter()
        self.model.train()
        self._train_pass()
        if self.progress.stopped_by:
            return
        trained = self.meter.read()
        validation = self.evaluator.run(self.val_batches.batches(0))
        improved = self._close_epoch(trained, validation)
        if self.growth is not None:
            self.growth.end_of_epoch(self.progress, trained[0])
            self.best.refresh()
        self._early_stop(validation)
        self._record(trained, validation, time.perf_counter() - began)
        self.account.read_clock()
        self.store.save(self.progress, improved=improved)

    def _train_pass(self) -> None:
        """One epoch of steps, from the position that the last one (or a checkpoint) left."""
        epoch, start = self.progress.epoch + 1, self.progress.batch
        if start == 0:
            self.meter.reset()
        for window in self.train_batches.windows(epoch, start, self.accumulation):
            self._step(window)
            self.progress.batch += len(window)
            if self._between_steps():
                break

    def _step(self, window: list[Any]) -> None:
        p = self.progress
        extra = self.lines.meter(p.step + 1)
        meters = [self.meter] if extra is None else [self.meter, extra]
        before = self.meter.samples
        norm = self.stepper.step(window, meters, p.step, want_norm=extra is not None)
        p.step += 1
        self.telemetry.step = p.step
        self.account.step(self.meter.samples - before)
        if extra is not None:
            self.lines.add(p.step, extra, norm)

    def _between_steps(self) -> bool:
        """Everything that may happen between two steps; True where the run is to end."""
        ended_blend = self.seeds.tick()
        if self._profiler is not None:
            self._profiler.step()
        if self.growth is not None:
            interval = decision_interval(self.config.morphogenetic, self.steps_per_epoch)
            inside = self.progress.batch < len(self.train_batches)
            if inside and (ended_blend or (interval and self.progress.step % interval == 0)):
                self.growth.inside_epoch(self.progress, self.meter.read()[0])
        self.parts.watcher.progress(math.ceil(self.progress.batch / self.accumulation), None)
        if self.wishes.poll():
            self.progress.stopped_by = self.wishes.stop_reason
            return self.progress.batch < len(self.train_batches)
        return False

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
        if not self.config.logging.track_metrics:
            return
        self.lines.flush(self.parts.records)
        self.parts.records.epoch(
            epoch_line(
                self.progress,
                trained,
                validation,
                self.seeds,
                learning_rate=self.optimizers.main.param_groups[0]["lr"],
                epoch_time=epoch_time,
                growing=self.growth is not None,
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
            loss = self.parts.loss(output, follow(targets, output))
        self.precision.backward(loss)
        return loss.item()

    # -- the end ---------------------------------------------------------------------------------

    def load_model(self, checkpoint: Checkpoint) -> None:
        """Take only the best model of a checkpoint, to evaluate it."""
        owners = checkpoint.state["owners"]
        self.best.mark.load(owners["best"]["mark"])
        self.model.load_state_dict(best_weights(checkpoint))
        self.progress.load(owners["run"]["progress"])

    def test(self) -> Evaluation:
        """Put the best model, with its topology, in place and read the test set."""
        self.best.restore()
        return self.evaluator.run(self.parts.test.batches(0))

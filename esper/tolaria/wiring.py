"""Builds the objects of a run from its components, connects them and registers their state."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.config import TolariaConfig
from esper.kasmina import HealthMonitor, SeedManager, TopologyChange
from esper.leyline import EventName
from esper.tolaria.batches import BatchSource
from esper.tolaria.best_model import BestModel
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.checkpoint.checkpointer import Checkpointer
from esper.tolaria.checkpoint.discovery import load_latest
from esper.tolaria.checkpoint.owners import register_owners
from esper.tolaria.checkpoint.rollback import Rollback
from esper.tolaria.checkpoint.snapshots import Snapshots
from esper.tolaria.compiled_forward import TrainingForward, compile_obstacle
from esper.tolaria.components import TrainingComponents
from esper.tolaria.cost.budget import FlopBudget, decision_interval
from esper.tolaria.cost.meter import CostMeter
from esper.tolaria.evaluator import Evaluator
from esper.tolaria.events import Telemetry
from esper.tolaria.gradients import ConflictStats, TaskBackward
from esper.tolaria.gradients.seed_attribution import AttributedBackward, SeedAttribution
from esper.tolaria.growth import CandidateSearch, Lookahead
from esper.tolaria.growth.controller import GrowthController
from esper.tolaria.growth.epoch_hooks import Growth
from esper.tolaria.growth.state_packet import History, PacketBuilder, hardware
from esper.tolaria.interrupts import InterruptHandler
from esper.tolaria.last_batch import refuse_single_samples
from esper.tolaria.loss.inspection import examine
from esper.tolaria.loss.loss_state import LossState
from esper.tolaria.loss.objectives import sum_losses
from esper.tolaria.measurements import Measurements
from esper.tolaria.optimization.circuit_breaker import RECOVERY_EPOCHS, CircuitBreaker
from esper.tolaria.optimization.lr_schedule import Horizon, LearningRate
from esper.tolaria.optimization.optimizer_manager import OptimizerManager
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.probe_batch import ProbeBatch
from esper.tolaria.records import StepMetrics
from esper.tolaria.recovery import (
    DivergenceDetector,
    DivergenceError,
    DivergenceGuard,
    EmergencyNotifier,
    Recovery,
    StepBuffer,
)
from esper.tolaria.run_control import RunControl
from esper.tolaria.task import RunningMetrics
from esper.tolaria.train_state import EarlyStopping, Progress
from esper.tolaria.training_step import Stepper

WRITER_POLL_S = 0.005


class RunWiring:
    """The connected objects of one run, with every owner of state registered.

    `TrainingLoop` adds the order of operations. `run_control` receives stop, pause and checkpoint requests.
    """

    def __init__(
        self, config: TolariaConfig, components: TrainingComponents, run_control: RunControl | None = None
    ) -> None:
        self.config = config
        self.components = components
        self.run_control = run_control or RunControl()
        self.model = components.model
        self.progress = Progress()
        self.telemetry = Telemetry(components.records)
        self.measurements = Measurements(self.telemetry, passing=(DivergenceError,))
        limits = config.trainer
        self.train_batches = BatchSource(
            components.train, limit=limits.limit_train_batches, repeat_first=config.overfit_one_batch
        )
        # overfitting one batch is validated on that batch: the question is whether it can be learned
        held_out = components.train if config.overfit_one_batch else components.validation
        self.val_batches = BatchSource(
            held_out,
            limit=1 if config.overfit_one_batch else limits.limit_val_batches,
            repeat_first=config.overfit_one_batch,
        )
        self.accumulation = config.optimization.accumulation_steps
        self.steps_per_epoch = math.ceil(len(self.train_batches) / self.accumulation)
        aggregator = components.aggregator
        self.combine_losses = sum_losses if aggregator is None else aggregator.combine_losses
        self.precision = Precision(config.mixed_precision, components.device)
        self.probe = ProbeBatch(
            self.model,
            self.val_batches,
            components.batch_adapter,
            components.loss,
            self.precision,
            config.morphogenetic.seed,
            device=components.device,
            rng_seed=config.seed,
            combine_losses=self.combine_losses,
        )
        adapter, device = components.batch_adapter, components.device
        refuse_single_samples(self.model, components.train, adapter, self.precision, device)
        step_interval = config.logging.step_interval if config.logging.track_metrics else 0
        self.loss_state = LossState(components.loss)
        if self.loss_state.has_uninitialized:
            self.probe.has_objectives()  # lazy parameters are created by the first forward
        self.loss = examine(config, components, self.probe)
        accuracy = self.loss.accuracy
        self.meter = RunningMetrics(device, self.combine_losses, accuracy)
        self.step_metrics = StepMetrics(step_interval, device, self.combine_losses, accuracy)
        self.decision_interval = decision_interval(config.morphogenetic, self.steps_per_epoch)
        self._build_loop()
        self.state = register_owners(self)
        self.checkpointer = Checkpointer(self.config, self.components, self.state, self.telemetry)
        self._build_recovery()

    def _build_loop(self) -> None:
        c, components = self.config, self.components
        o, seed = c.optimization, c.morphogenetic.seed
        self.seeds = SeedManager(self.model, seed)
        self.optimizers = OptimizerManager(
            self.model,
            components.optimizer,
            lr=o.learning_rate,
            seed_lr=o.learning_rate * seed.learning_rate_scale,
            isolation_lr=seed.isolation_learning_rate,
            warmup_steps=seed.warmup_steps,
            rebuilds=CircuitBreaker(self.telemetry, recovery_steps=RECOVERY_EPOCHS * self.steps_per_epoch),
            loss=components.loss,
        )
        self.forward = TrainingForward(
            self.model,
            compile_model=c.compile_model,
            backend=c.trainer.compile_backend,
            batch_size=components.train.batch_size,
            on_fallback=lambda reason: self.telemetry.warn(EventName.COMPILE_FALLBACK, {"reason": reason}),
            obstacle=compile_obstacle(components.aggregator is not None, self.probe.has_objectives)
            if c.compile_model
            else None,
        )
        self.attribution = self._build_attribution()
        self.tasks = self._build_tasks()
        self.schedule = components.schedule(
            Horizon(self.steps_per_epoch * o.max_epochs, self.steps_per_epoch)
        )
        self.stepper = self._build_stepper(self.schedule)
        self.evaluator = Evaluator(
            self.model,
            self.loss,
            components.batch_adapter,
            self.precision,
            components.device,
            rng_seed=c.seed,
            combine_losses=self.combine_losses,
            poll=self._poll,
        )
        self.cost_meter = CostMeter(self.model, self.progress, self.probe, self.measurements)
        self.early_stopping = EarlyStopping(o.early_stopping_patience, o.early_stopping_min_delta)
        self.best = BestModel(self.model, self.loss_state, higher_is_better=self.loss.higher_is_better)
        self.history = History(c.morphogenetic.performance_window)
        self.flops = FlopBudget(self.model, self.cost_meter.forward_flops, c.morphogenetic.max_flops_ratio)
        self.growth = self._build_growth() if components.tamiyo is not None else None

    def _build_tasks(self) -> TaskBackward | None:
        if self.components.aggregator is None:
            return None
        conflict_stats = ConflictStats(self.components.device, self.config.trainer.grad_conflict_threshold)
        return TaskBackward(
            self.components.aggregator,
            self.precision,
            self.optimizers.shared_parameters,
            conflict_stats,
            self.attribution.tasks if self.config.trainer.seed_weighting != "none" else None,
        )

    def _build_attribution(self) -> SeedAttribution:
        t = self.config.trainer
        return SeedAttribution(
            self.optimizers,
            self.seeds,
            self.components.device,
            apply=t.seed_weighting == "apply",
            layers=t.tolaria_seed_layer_topk if t.tolaria_seed_layer_summaries_enabled else 0,
            attempt=self.measurements.take,
        )

    def _build_stepper(self, schedule: LearningRate) -> Stepper:
        o, components = self.config.optimization, self.components
        attribute_seeds = self.config.trainer.seed_weighting != "none"
        plain = AttributedBackward(self.precision, self.attribution) if attribute_seeds else None
        return Stepper(
            self.forward,
            self.optimizers,
            self.seeds,
            schedule,
            self.loss,
            components.batch_adapter,
            self.precision,
            o.gradient_clip_norm,
            self.tasks or plain,
            self.attribution if attribute_seeds else None,
            o.gradient_clip_scope,
        )

    def _build_growth(self) -> Growth:
        c, m = self.config, self.config.morphogenetic
        assert self.components.tamiyo is not None
        packets = PacketBuilder(
            self.seeds,
            session_name=c.session_name,
            blueprints=m.blueprints,
            max_params_ratio=m.max_params_ratio,
            max_epochs=c.optimization.max_epochs,
            steps_per_epoch=self.steps_per_epoch,
            history=self.history,
            on_broken=lambda reason: self.telemetry.warn(EventName.KASMINA_ERROR, {"reason": reason}),
            flops=self.flops,
            facts=lambda: self.measurements.take("the state of the hardware", hardware) or {},
        )
        controller = GrowthController(
            self.components.tamiyo,
            self.seeds,
            self.optimizers,
            self.telemetry,
            m,
            max_params=packets.max_params,
            hook_budget_ms=c.trainer.hook_budget_ms,
            on_structure=self._topology_changed,
            flops=self.flops,
            select=self._build_candidate_search().select if m.lookahead_steps else None,
        )
        monitor = HealthMonitor(self.model, m.performance_window) if self.model.telemetry_enabled else None
        return Growth(
            controller,
            packets,
            monitor,
            self.evaluator,
            self.probe,
            self.telemetry,
            self.cost_meter,
            m,
            self.measurements,
            self._poll,
        )

    def _build_candidate_search(self) -> CandidateSearch:
        lookahead = Lookahead(
            self.evaluator, self.train_batches, self.probe, self.components.optimizer, self.cost_meter
        )
        main = self.optimizers.main
        steps = self.config.morphogenetic.lookahead_steps
        return CandidateSearch(lookahead, self.progress, steps, lambda: main.param_groups[0]["base_lr"])

    def _build_recovery(self) -> None:
        """Build divergence checks, rollback and emergencies; they are registered and saved, too."""
        c, t = self.config, self.config.trainer
        saver = self.checkpointer
        snapshots = Snapshots(c.checkpoint.snapshot_limit_mb << 20, self.state, saver.metadata.make)
        self.interrupts = InterruptHandler(self.run_control, saver, self.progress, self._prepare_saving)
        self.step_buffer = StepBuffer(self.components.device, t.governor_interval_steps, self.combine_losses)
        self.guard = DivergenceGuard(
            self.model,
            self.progress,
            self.step_buffer,
            DivergenceDetector(t.governor_loss_factor, overflows=self.precision.scaler is not None),
            snapshots,
            self.telemetry,
            c.checkpoint.snapshot_interval_steps,
            loss=self.loss_state.module,
        )
        self.emergency_notifier = EmergencyNotifier(self.components.run_dir, c.session_name, self.telemetry)
        self.recovery = Recovery(
            self.model,
            self.cost_meter,
            self.guard,
            Rollback(self.state, snapshots, saver, read=self._read_newest),
            self.schedule,
            None if self.growth is None else self.growth.controller,
            self.emergency_notifier,
            self.telemetry,
            self._rewind,
            max_rollbacks=t.max_rollbacks,
            lr_factor=t.rollback_lr_factor,
            deadline_ms=t.rollback_deadline_ms,
            embargo_epochs=c.morphogenetic.seed.embargo_epochs,
        )
        self.state.register("governor", self.guard)
        self.state.register("recovery", self.recovery)

    def _read_newest(self, folder: Path, at_or_before_step: int) -> Checkpoint:
        """Load the newest checkpoint once a pending write has finished. Runs on the reader's thread."""
        while self.checkpointer.busy:
            time.sleep(WRITER_POLL_S)
        return load_latest(folder, at_or_before_step)

    def _poll(self) -> None:
        self.interrupts.poll()

    def _prepare_saving(self) -> None:
        """Read the measurements that are still on the device: unread ones are not part of the saved state."""
        self.guard.inspect()
        self.step_metrics.flush(self.components.records)
        self.cost_meter.read_clock()
        self.guard.keep_good()

    def _rewind(self, records: Mapping[str, Any]) -> None:
        self.step_metrics.forget()
        self.components.records.rewind(records)

    def state_dict(self) -> dict[str, Any]:
        """The loop's own state; the other registered owners have theirs."""
        counters = self.model.counters
        return {
            "progress": self.progress.to_json(),
            "early": self.early_stopping.to_json(),
            "forwards": counters.forwards,
            "kernels": counters.kernels,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.progress.load(state["progress"])
        self.early_stopping.load(state["early"])
        self.model.counters.forwards, self.model.counters.kernels = state["forwards"], state["kernels"]
        self.telemetry.step, self.telemetry.epoch = self.progress.step, self.progress.epoch
        # a stop request was for the saved run; patience is checked again: it may have been raised
        self.progress.stopped_by = "early_stopping" if self.early_stopping.over else ""
        if self.schedule.extension:
            self.telemetry.warn(EventName.NOTICE, {"message": self.schedule.extension})
        self._forward_changed()

    def report_steps(self) -> None:
        """Log the epoch's statistics of seed gradients and skipped fp16 steps; waits for the device."""
        take = self.measurements.take
        take("the report on seeds' gradients", lambda: self.attribution.flush(self.telemetry))
        take("the report on skipped steps", lambda: self.precision.report(self.telemetry))

    def _topology_changed(self, change: TopologyChange) -> None:
        self._forward_changed()
        self.early_stopping.restart()
        self.best.topology_changed()

    def _forward_changed(self) -> None:
        self.cost_meter.topology_changed()
        self.forward.topology_changed(has_hooks=bool(self.seeds.isolated))

"""The machinery of a run, built from its parts: all that the loop moves, and what of it is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from esper.config import TolariaConfig
from esper.kasmina import HealthMonitor, SeedManager, TopologyChange
from esper.leyline import EventName
from esper.tolaria.account import Account
from esper.tolaria.batches import BatchSource
from esper.tolaria.best import BestModel
from esper.tolaria.control import ControlLoop
from esper.tolaria.evaluate import Evaluator
from esper.tolaria.forward import TrainingForward
from esper.tolaria.growth import Growth
from esper.tolaria.lines import StepLines
from esper.tolaria.optimizer import OptimizerManager
from esper.tolaria.packet import History, PacketBuilder
from esper.tolaria.parts import Parts
from esper.tolaria.precision import Precision
from esper.tolaria.probe import Probe
from esper.tolaria.progress import EarlyStopping, Progress
from esper.tolaria.schedule import Horizon
from esper.tolaria.signals import Wishes
from esper.tolaria.state import Generators, StateManager
from esper.tolaria.state.store import Store
from esper.tolaria.step import Stepper
from esper.tolaria.task import Meter
from esper.tolaria.telemetry import Telemetry


class Machinery:
    """What a run consists of, wired together, with every owner of state registered.

    `Run` adds the order in which it moves. `wishes` is how others ask it to stop or pause.
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
        packets = PacketBuilder(
            self.seeds,
            session_name=c.session_name,
            blueprints=m.blueprints,
            max_params_ratio=m.max_params_ratio,
            max_epochs=c.optimization.max_epochs,
            steps_per_epoch=self.steps_per_epoch,
            history=self.history,
            on_broken=lambda why: self.telemetry.warn(EventName.KASMINA_ERROR, {"reason": why}),
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

    def _topology_changed(self, change: TopologyChange) -> None:
        self._forward_changed()
        self.early.restart()
        self.best.topology_changed()

    def _forward_changed(self) -> None:
        self.account.topology_changed()
        self.forward.topology_changed(listening=bool(self.seeds.isolated))

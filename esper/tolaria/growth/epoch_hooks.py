"""The seeds' part of an epoch: gates, health, impact, decisions; at its end and between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from esper.config import MorphogeneticConfig
from esper.kasmina import HealthMonitor, Seed, SeedManager, SeedRecord, TrainingPosition
from esper.kasmina.model_buffers import preserve_buffers
from esper.leyline import EventName, HealthSignal, Impact, Level, SeedStage, SystemStatePacket
from esper.tolaria.cost.meter import CostMeter
from esper.tolaria.evaluator import Evaluator
from esper.tolaria.events import Telemetry
from esper.tolaria.growth.controller import GrowthController
from esper.tolaria.growth.state_packet import PacketBuilder
from esper.tolaria.measurements import Measurements
from esper.tolaria.probe_batch import ProbeBatch
from esper.tolaria.train_state import Progress


class Growth:
    """Runs the seeds' part of an epoch: health, decisions, commands, impacts.

    The cost of measurements is charged to `cost_meter`; what cannot be measured is missing, and without a
    packet no decision is made. `poll` is called before each probe and before the decisions at an epoch's end;
    if it raises, the epoch's end has to be repeated.
    """

    def __init__(
        self,
        controller: GrowthController,
        packets: PacketBuilder,
        monitor: HealthMonitor | None,
        evaluator: Evaluator,
        probe: ProbeBatch,
        telemetry: Telemetry,
        cost_meter: CostMeter,
        config: MorphogeneticConfig,
        measurements: Measurements,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self.controller = controller
        self.packets = packets
        self.monitor = monitor
        self.evaluator = evaluator
        self.telemetry = telemetry
        self.cost_meter = cost_meter
        self.config = config
        self.probe = probe
        self.measurements = measurements
        self.poll = poll
        self.health: dict[str, HealthSignal] = {}

    @property
    def seeds(self) -> SeedManager:
        return self.controller.seeds

    def within_epoch(self, progress: Progress, train_loss: float) -> None:
        """Make a round of decisions between two steps."""
        self.controller.advance(TrainingPosition(progress.step, progress.epoch))
        self._decide(progress, train_loss, running_epoch=progress.epoch + 1)

    def end_of_epoch(self, progress: Progress, train_loss: float) -> None:
        """Gates, health, impact and, when due, decisions; `progress.epoch` counts this epoch."""
        began = time.perf_counter()
        self.controller.advance(TrainingPosition(progress.step, progress.epoch))
        if self.monitor is not None and progress.epoch % self.config.health_signal_interval == 0:
            self.poll()
            self._measure_health()
        self._measure_impact(progress)
        self.controller.check_budget("end_of_epoch", 1e3 * (time.perf_counter() - began))
        if progress.epoch % self.config.decision_frequency == 0:
            self.poll()
            self._decide(progress, train_loss, running_epoch=progress.epoch)

    def finish(self, progress: Progress, train_loss: float) -> None:
        """Notify Tamiyo of the end of the run."""
        packet = self._packet(progress, train_loss)
        if packet is not None:
            self.controller.finish(packet)

    def _decide(self, progress: Progress, train_loss: float, *, running_epoch: int) -> None:
        packet = self._packet(progress, train_loss)
        if packet is not None:
            self.controller.decide(packet, running_epoch)

    def _packet(self, progress: Progress, train_loss: float) -> SystemStatePacket | None:
        return self.measurements.take(
            "the state that Tamiyo decides by",
            lambda: self.packets.build(
                step=progress.step, epoch=progress.epoch, train_loss=train_loss, health=self.health
            ),
        )

    def _measure_health(self) -> None:
        monitor, probe = self.monitor, self.probe
        assert monitor is not None
        found = self.measurements.take(
            "the health of the seeds", lambda: monitor.measure(probe.loss, probe.samples)
        )
        self.health = found or {}
        self.cost_meter.add_forwards(self.probe.samples)
        for signal in self.health.values():
            if signal.stage is not SeedStage.DORMANT:
                self.telemetry.emit(EventName.SEED_HEALTH, asdict(signal), level=Level.DEBUG)

    def due_for_impact(self, epoch: int) -> list[SeedRecord]:
        """Probationary seeds whose probation ends with `epoch`."""
        served = self.config.seed.probation_epochs
        return [
            r
            for r in self.seeds.model.alive_records()
            if r.stage is SeedStage.PROBATIONARY and epoch - r.stage_epoch >= served
        ]

    def _measure_impact(self, progress: Progress) -> None:
        due = self.due_for_impact(progress.epoch)
        if not due:
            return
        modules = [self.seeds.model.seed_module(record) for record in due]
        found = self.measurements.take("the impact of the seeds", lambda: self._impacts(modules))
        if found is None:
            self.cost_meter.add(None)  # its cost is unknown
        else:
            self.cost_meter.add_forwards((len(due) + 1) * found[0].samples)
        for number, record in enumerate(due):
            record.impact = None if found is None else found[number]
            if record.impact is None:
                continue
            data = {"layer": record.layer, "seed": record.index} | asdict(record.impact)
            self.telemetry.emit(EventName.SEED_IMPACT, data)

    def _impacts(self, modules: list[Seed]) -> list[Impact]:
        with preserve_buffers(self.seeds.model):
            return self.evaluator.impacts(modules, self.probe.held_out)

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The last health signals: the next decision may come before the next ones."""
        return {"health": {key: asdict(signal) for key, signal in self.health.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.health = {
            key: HealthSignal(**{**saved, "stage": SeedStage(saved["stage"])})
            for key, saved in state["health"].items()
        }

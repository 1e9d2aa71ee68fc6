"""Builds the packet that Tamiyo decides by."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psutil
import torch

from esper.config import TolariaConfig
from esper.kasmina import Blueprint, MorphableModel, SeedManager, get_blueprint
from esper.kasmina.record import SeedRecord
from esper.kasmina.target_layers import WHOLE_HOST, layer_module
from esper.leyline import (
    Candidate,
    HealthSignal,
    SeedStage,
    SeedState,
    SiteState,
    SystemStatePacket,
)
from esper.tolaria.cost.budget import FlopBudget, seed_flops


class History:
    """The last `window` epochs' losses and accuracies, oldest first."""

    NAMES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")

    def __init__(self, window: int) -> None:
        self.rows: dict[str, deque[float]] = {name: deque(maxlen=window) for name in self.NAMES}

    def add(self, record: Mapping[str, float | None]) -> None:
        for name, row in self.rows.items():
            value = record.get(name)
            if value is not None:
                row.append(value)

    def state_dict(self) -> dict[str, list[float]]:
        return {name: list(row) for name, row in self.rows.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        for name, row in self.rows.items():
            row.clear()
            row.extend(state[name])


class PacketBuilder:
    """Builds a `SystemStatePacket` with the blueprints that fit a site and the budgets.

    A blueprint that raises when its sizes are computed is reported to `on_broken` and no longer offered.
    `facts` returns the hardware's description; `hardware` by default.
    """

    def __init__(
        self,
        seeds: SeedManager,
        *,
        config: TolariaConfig,
        steps_per_epoch: int,
        history: History,
        on_broken: Callable[[str], None],
        flops: FlopBudget | None = None,
        facts: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self.facts = facts or hardware
        self.seeds = seeds
        self.model: MorphableModel = seeds.model
        self.session_name = config.session_name
        self.blueprints = list(config.morphogenetic.blueprints)
        self.max_params = int(config.morphogenetic.max_params_ratio * self.model.host_params())
        self.max_epochs = config.optimization.max_epochs
        self.steps_per_epoch = steps_per_epoch
        self.history = history
        self.on_broken = on_broken
        self.flops = flops
        self._known: dict[tuple[str, str], tuple[Blueprint, list[Candidate]]] = {}

    def build(
        self, *, step: int, epoch: int, train_loss: float, health: Mapping[str, HealthSignal]
    ) -> SystemStatePacket:
        """The packet for the current state; `health` is by slot key."""
        rows = {name: tuple(row) for name, row in self.history.rows.items()}
        return SystemStatePacket(
            session_name=self.session_name,
            step=step,
            epoch=epoch,
            max_epochs=self.max_epochs,
            steps_per_epoch=self.steps_per_epoch,
            train_loss=train_loss,
            train_loss_history=rows["train_loss"],
            val_loss_history=rows["val_loss"],
            train_accuracy_history=rows["train_accuracy"],
            val_accuracy_history=rows["val_accuracy"],
            params_host=self.model.host_params(),
            params_now=self.model.total_params(),
            seeds=tuple(self._seed(r, step, epoch, health) for r in self._occupied()),
            sites=self.sites(health),
            hardware=self.facts(),
            max_params=self.max_params,
            flops_now=(self.flops.used or 0) if self.flops is not None else 0,
            max_flops=self.flops.limit if self.flops is not None else None,
            inputs=self._inputs(),
        )

    def _occupied(self) -> list[SeedRecord]:
        rows = self.model.records.values()
        return [r for row in rows for r in row if r.stage is not SeedStage.DORMANT]

    def _seed(
        self, record: SeedRecord, step: int, epoch: int, health: Mapping[str, HealthSignal]
    ) -> SeedState:
        return SeedState(
            layer=record.layer,
            seed_index=record.index,
            stage=record.stage,
            blueprint=record.blueprint,
            placement=record.placement,
            params=record.params,
            alpha=self.seeds.alpha(record),
            epochs_in_stage=epoch - record.stage_epoch,
            steps_in_stage=step - record.stage_step,
            germinated_epoch=record.germinated_epoch,
            objective=self._objective(record),
            impact=record.impact,
            health=health.get(record.key),
            flops=seed_flops(record) if record.alive else 0,
        )

    def _objective(self, record: SeedRecord) -> float | None:
        if record.stage is not SeedStage.TRAINING:
            return None
        return self.model.seed_module(record).objective()

    def sites(self, health: Mapping[str, HealthSignal]) -> tuple[SiteState, ...]:
        """Every site that a batch passes through, with the candidates that can be attached there."""
        params_left = self.max_params - self.model.total_params()
        flops = math.inf if self.flops is None else self.flops.left
        remaining = (params_left, flops)
        return tuple(
            self._site(layer, health, remaining) for layer, s in self.model.sites.items() if s.usable
        )

    def _site(
        self, layer: str, health: Mapping[str, HealthSignal], remaining: tuple[int, float]
    ) -> SiteState:
        last = max(site.order for site in self.model.sites.values())
        free = [r for r in self.model.records[layer] if r.stage is SeedStage.DORMANT]
        return SiteState(
            layer=layer,
            depth=self.model.sites[layer].order / last if last else 0.0,
            params=sum(p.numel() for p in layer_module(self.model.host, layer).parameters()),
            free_slots=tuple(r.index for r in free),
            candidates=self._candidates(layer, *remaining) if free else (),
            health=health.get(free[0].key) if free else None,
        )

    def _candidates(self, layer: str, params_left: int, flops: float) -> tuple[Candidate, ...]:
        found: list[Candidate] = []
        for name in list(self.blueprints):
            try:
                found += [c for c in self._sizes(name, layer) if c.params <= params_left and c.flops <= flops]
            except Exception as error:  # noqa: BLE001 - a blueprint may be the user's code
                self.blueprints.remove(name)
                self.on_broken(f"blueprint {name!r} is withdrawn: {type(error).__name__}: {error}")
        return tuple(found)

    def _sizes(self, name: str, layer: str) -> list[Candidate]:
        """Every size of a blueprint at a layer; shapes do not change, so it is computed once."""
        blueprint = get_blueprint(name)
        known = self._known.get((name, layer))
        if known is None or known[0] is not blueprint:
            known = self._known[name, layer] = blueprint, list(self._all_sizes(blueprint, layer))
        return known[1]

    def _all_sizes(self, blueprint: Blueprint, layer: str) -> Iterator[Candidate]:
        for placement in ("series", "parallel"):
            shape = self.model.site_shape(layer, placement)
            if not shape.in_shape or blueprint.unsupported(shape):
                continue
            for options in blueprint.sizes(shape):
                cost = blueprint.cost(shape, **options)
                reads = math.prod(shape.in_shape)
                yield Candidate(blueprint.name, placement, options, cost.params, cost.flops, reads)

    def _inputs(self) -> int:
        sites = [site for site in self.model.sites.values() if site.usable and site.in_shape]
        whole = [site for site in sites if site.layer == WHOLE_HOST]
        first = whole or sorted(sites, key=lambda site: site.order)[:1]
        return math.prod(first[0].in_shape) if first else 0


def hardware() -> dict[str, Any]:
    """The process's resources: threads, memory, and the accelerator if there is one."""
    memory = psutil.Process().memory_info().rss
    facts: dict[str, Any] = {"threads": torch.get_num_threads(), "memory_mb": memory / 2**20}
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(), "gpu_memory_mb": torch.cuda.memory_allocated() / 2**20}
    return facts

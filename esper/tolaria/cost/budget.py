"""What growth may still use of the FLOPs that a forward may cost, and how often it is decided on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from esper.config import MorphogeneticConfig
from esper.kasmina import MorphableModel, SiteShape, get_blueprint
from esper.kasmina.record import SeedRecord
from esper.leyline import AdaptationCommand, CommandKind


class FlopBudget:
    """The FLOPs of a forward of one sample: the host's, those of the seeds, and what they may add up to.

    `forward` counts the model as it is; None where it cannot. `ratio` bounds the sum as a multiple of the
    host's; None: no bound. Where nothing can be counted a bound leaves no room at all.
    """

    def __init__(
        self, model: MorphableModel, forward: Callable[[], float | None], ratio: float | None = None
    ) -> None:
        self.model = model
        self.forward = forward
        self.ratio = ratio
        self._host: int | None = None

    @property
    def host(self) -> int | None:
        """Of the host alone, counted once; None where it could not be counted."""
        if self._host is None and (forward := self.forward()) is not None:
            joined = sum(seed_flops(r) for r in self.model.alive_records() if r.joined)
            self._host = round(forward) - joined
        return self._host

    def state_dict(self) -> dict[str, int | None]:
        """The host's count: among seeds that have joined it could only be guessed at."""
        return {"host": self._host}

    def load_state_dict(self, state: Mapping[str, int | None]) -> None:
        self._host = state["host"]

    @property
    def used(self) -> int | None:
        """Of the host and every living seed, as if all had joined; None where the host's are not known."""
        host = self.host
        return None if host is None else host + sum(map(seed_flops, self.model.alive_records()))

    @property
    def limit(self) -> int | None:
        host = self.host
        return None if self.ratio is None or host is None else int(self.ratio * host)

    @property
    def left(self) -> float:
        """FLOPs that further seeds may cost; infinite where nothing bounds them."""
        if self.ratio is None:
            return math.inf
        limit, used = self.limit, self.used
        return 0 if limit is None or used is None else limit - used

    def excess(self, flops: int) -> str:
        """Why a seed of so many FLOPs is too much, or nothing where it is not."""
        if self.ratio is None:
            return ""
        limit, used = self.limit, self.used
        if limit is None or used is None:
            return "the FLOPs of a forward could not be counted, so max_flops_ratio leaves no room"
        return "" if used + flops <= limit else f"{used + flops:,} FLOPs a sample with it, at most {limit:,}"


def over_budget(
    command: AdaptationCommand, model: MorphableModel, max_params: int, flops: FlopBudget | None
) -> str:
    """Why there is no room for what a germination asks to plant; nothing where there is, or for other kinds.

    Raises `GrowthError` where it could not be planted anyway.
    """
    if command.kind is not CommandKind.GERMINATE:
        return ""
    shape = model.site_shape(command.layer, command.placement)
    cost = get_blueprint(command.blueprint).cost(shape, **command.options)
    total = model.total_params() + cost.params
    if total > max_params:
        return f"{total:,} parameters with it, at most {max_params:,}"
    return "" if flops is None else flops.excess(cost.flops)


def seed_flops(record: SeedRecord) -> int:
    """What a forward of this seed costs for one sample."""
    shape = SiteShape(record.layout, record.in_shape, record.out_shape)
    return get_blueprint(record.blueprint).cost(shape, **record.options).flops


def decision_interval(config: MorphogeneticConfig, steps_per_epoch: int) -> int | None:
    """Optimiser steps between two rounds of decisions inside an epoch; None where there are none."""
    if config.decision_interval_steps is not None or config.decision_interval_epochs is None:
        return config.decision_interval_steps
    return max(1, round(config.decision_interval_epochs * steps_per_epoch))

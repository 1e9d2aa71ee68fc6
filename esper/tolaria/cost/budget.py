"""The FLOP and parameter budgets of growth, and the interval of its decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from esper.config import MorphogeneticConfig
from esper.kasmina import MorphableModel, SiteShape, get_blueprint
from esper.kasmina.record import SeedRecord
from esper.leyline import AdaptationCommand, CommandKind


class FlopBudget:
    """The FLOPs of a forward of one sample: of the host, of the seeds, and the limit of their sum.

    Args:
        model: the growing model.
        forward: counts the FLOPs of the present model, None if they cannot be counted.
        ratio: the limit as a multiple of the host's FLOPs, None for no limit. A limit allows no seed if the
            FLOPs cannot be counted.
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
        """FLOPs of the host alone, counted once; None if they could not be counted."""
        if self._host is None and (forward := self.forward()) is not None:
            joined = sum(seed_flops(r) for r in self.model.alive_records() if r.joined)
            self._host = round(forward) - joined
        return self._host

    def state_dict(self) -> dict[str, int | None]:
        """The host's count, which cannot be measured any more once seeds have joined."""
        return {"host": self._host}

    def load_state_dict(self, state: Mapping[str, int | None]) -> None:
        self._host = state["host"]

    @property
    def used(self) -> int | None:
        """FLOPs of the host and every living seed, as if all had joined; None if the host's are unknown."""
        host = self.host
        return None if host is None else host + sum(map(seed_flops, self.model.alive_records()))

    @property
    def limit(self) -> int | None:
        host = self.host
        return None if self.ratio is None or host is None else int(self.ratio * host)

    @property
    def left(self) -> float:
        """FLOPs that further seeds may cost; infinite without a limit."""
        if self.ratio is None:
            return math.inf
        limit, used = self.limit, self.used
        return 0 if limit is None or used is None else limit - used

    def excess(self, flops: int) -> str:
        """Why a seed of so many FLOPs exceeds the limit; empty if it does not."""
        if self.ratio is None:
            return ""
        limit, used = self.limit, self.used
        if limit is None or used is None:
            return "the FLOPs of a forward could not be counted, so max_flops_ratio allows no seed"
        return "" if used + flops <= limit else f"{used + flops:,} FLOPs a sample with it, at most {limit:,}"


def over_budget(
    command: AdaptationCommand, model: MorphableModel, max_params: int, flops: FlopBudget | None
) -> str:
    """Why a germination exceeds a budget; empty if it does not, or for other commands.

    Args:
        command: what the policy requests.
        model: the growing model.
        max_params: the limit of the model's parameters.
        flops: the limit of FLOPs, if there is one.

    Raises:
        GrowthError: the blueprint cannot be attached to the layer at all.
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
    """The FLOPs of a forward of this seed for one sample."""
    shape = SiteShape(record.layout, record.in_shape, record.out_shape)
    return get_blueprint(record.blueprint).cost(shape, **record.options).flops


def decision_interval(config: MorphogeneticConfig, steps_per_epoch: int) -> int | None:
    """Optimiser steps between two decisions within an epoch; None if there are none within an epoch."""
    if config.decision_interval_steps is not None or config.decision_interval_epochs is None:
        return config.decision_interval_steps
    return max(1, round(config.decision_interval_epochs * steps_per_epoch))

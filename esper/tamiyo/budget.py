"""What can be planted in one round of decisions: free slots and the room for parameters, kept count of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esper.leyline import ALIVE, Candidate, SiteState, SystemStatePacket


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one of the seeds that are still missing may use; `flops` is infinite where nothing bounds it."""

    params: float
    flops: float

    def holds(self, candidate: Candidate) -> bool:
        return candidate.params <= self.params and candidate.flops <= self.flops

    def filled(self, candidate: Candidate) -> float:
        """How much of it a candidate uses, in [0, 1]: a geometric mean where both are bounded."""
        filled = candidate.params / self.params if self.params else 0.0
        if math.isinf(self.flops):
            return filled
        return math.sqrt(filled * candidate.flops / self.flops) if self.flops else 0.0


class Budget:
    """Free slots and parameters of one packet; what is taken here is not offered again."""

    def __init__(self, packet: SystemStatePacket) -> None:
        self.sites = {site.layer: site for site in packet.sites}
        self.free = {site.layer: list(site.free_slots) for site in packet.sites}
        self.room = _room(packet)
        self.flops = math.inf if packet.max_flops is None else max(0, packet.max_flops - packet.flops_now)
        self.seeds = dict.fromkeys(self.sites, 0)
        for seed in packet.seeds:
            if seed.stage in ALIVE:
                self.seeds[seed.layer] = self.seeds.get(seed.layer, 0) + 1

    @property
    def living(self) -> int:
        """Seeds that are alive, those taken in this round included."""
        return sum(self.seeds.values())

    def offers(self, limit: float, flops: float = math.inf) -> list[tuple[SiteState, Candidate]]:
        """Candidates of at most `limit` parameters and `flops` FLOPs at sites with a free slot."""
        limit, flops = min(limit, self.room), min(flops, self.flops)
        return [
            (site, candidate)
            for site in self.sites.values()
            if self.free[site.layer]
            for candidate in site.candidates
            if candidate.params <= limit and candidate.flops <= flops
        ]

    def take(self, layer: str, candidate: Candidate) -> int:
        """Use the first free slot of `layer` and the candidate's share of the room; returns the slot."""
        self.room -= candidate.params
        self.flops -= candidate.flops
        self.seeds[layer] += 1
        return self.free[layer].pop(0)


def _room(packet: SystemStatePacket) -> int:
    if packet.max_params is not None:
        return max(0, packet.max_params - packet.params_now)
    # without a stated bound: candidates are filtered to fit, so that the largest is known to fit
    return max((c.params for site in packet.sites for c in site.candidates), default=0)


def matches(candidate: Candidate, blueprint: str, placement: str, options: Mapping[str, Any]) -> bool:
    """Whether a candidate is of that blueprint and placement and has the options given (others are free)."""
    return (candidate.blueprint, candidate.placement) == (blueprint, placement) and all(
        name in candidate.options and candidate.options[name] == value for name, value in options.items()
    )

"""The budget of one round of decisions: free slots, parameters and FLOPs that are still available."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esper.leyline import ALIVE, Candidate, SiteState, SystemStatePacket


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one seed may use: parameters, and FLOPs of a forward of one sample (infinite without a bound)."""

    params: float
    flops: float

    def allows(self, candidate: Candidate) -> bool:
        return candidate.params <= self.params and candidate.flops <= self.flops

    def used_fraction(self, candidate: Candidate) -> float:
        """Return the fraction that a candidate uses, in [0, 1]: a geometric mean where both are bounded."""
        used_fraction = candidate.params / self.params if self.params else 0.0
        if math.isinf(self.flops):
            return used_fraction
        return math.sqrt(used_fraction * candidate.flops / self.flops) if self.flops else 0.0


class Budget:
    """Free slots, parameters and FLOPs of one packet; what is reserved is not offered again.

    Args:
        packet: the state of the run.
    """

    def __init__(self, packet: SystemStatePacket) -> None:
        self.sites = {site.layer: site for site in packet.sites}
        self.free = {site.layer: list(site.free_slots) for site in packet.sites}
        self.remaining_params = _remaining_params(packet)
        self.remaining_flops = (
            math.inf if packet.max_flops is None else max(0, packet.max_flops - packet.flops_now)
        )
        self.seeds = dict.fromkeys(self.sites, 0)
        for seed in packet.seeds:
            if seed.stage in ALIVE:
                self.seeds[seed.layer] = self.seeds.get(seed.layer, 0) + 1

    @property
    def alive(self) -> int:
        """Number of seeds alive, including those reserved in this round."""
        return sum(self.seeds.values())

    def offers(self, limit: float, flops: float = math.inf) -> list[tuple[SiteState, Candidate]]:
        """Return candidates of at most `limit` parameters and `flops` FLOPs at sites with a free slot."""
        limit, flops = min(limit, self.remaining_params), min(flops, self.remaining_flops)
        return [
            (site, candidate)
            for site in self.sites.values()
            if self.free[site.layer]
            for candidate in site.candidates
            if candidate.params <= limit and candidate.flops <= flops
        ]

    def reserve(self, layer: str, candidate: Candidate) -> int:
        """Reserve the first free slot of `layer` and the candidate's cost; returns the slot."""
        self.remaining_params -= candidate.params
        self.remaining_flops -= candidate.flops
        self.seeds[layer] += 1
        return self.free[layer].pop(0)


def _remaining_params(packet: SystemStatePacket) -> int:
    if packet.max_params is not None:
        return max(0, packet.max_params - packet.params_now)
    # without a bound: candidates are filtered to fit, so that the largest is known to fit
    return max((c.params for site in packet.sites for c in site.candidates), default=0)


def candidate_matches(
    candidate: Candidate, blueprint: str, placement: str, options: Mapping[str, Any]
) -> bool:
    """Whether a candidate has that blueprint and placement and the given options (others are free)."""
    return (candidate.blueprint, candidate.placement) == (blueprint, placement) and all(
        name in candidate.options and candidate.options[name] == value for name, value in options.items()
    )

"""Prior value of a candidate by its kind, before anything is measured in this run.

The constants were chosen on validation data, one set for all tasks: scripts/benchmarks/README.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from esper.leyline import ALIVE, Candidate, SiteState, SystemStatePacket
from esper.tamiyo.budget import Allowance

# Gain per parameter of a blueprint, relative to the best; other blueprints get the middle value.
_STRENGTH = {
    **{"depthwise": 1.0, "conv_branch": 1.0, "conv_heavy": 0.7, "conv_light": 0.7, "mlp": 0.7},
    **{"low_rank": 0.4, "squeeze_excite": 0.4},
}
_UNKNOWN = 0.7
# Over fewer positions a depthwise kernel sees mostly padding: at 2x2 it was worth half (digits, five splits).
_FEW_POSITIONS = 16
# Parameters that are used at many positions gain more each: by this power of FLOPs per parameter.
_USE_POWER = 0.25
# Value of width relative to depth of the same size: on Fashion-MNIST two 3x3 seeds in series gained 3.9
# points on a small convnet, two in parallel 2.1. Where only a parallel seed can use the budget (narrow
# layers), it still wins.
_PARALLEL = 0.5


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate at a site with its expected gain.

    Args:
        site: the layer.
        candidate: the blueprint and its size.
        rating: expected probability that the seed helps.
        value: expected gain per used fraction of the allowance.
        allowance: the parameters and FLOPs that the seed may use.
    """

    site: SiteState
    candidate: Candidate
    rating: float
    value: float
    allowance: Allowance

    @property
    def score(self) -> float:
        return self.value * self.allowance.used_fraction(self.candidate)


def prior_value(candidate: Candidate, max_flops_per_param: float, inputs: int) -> float:
    """Return the value per parameter of this kind of seed, relative to the best kind, in [0, 1].

    Args:
        candidate: the candidate.
        max_flops_per_param: the largest FLOPs per parameter among candidates that read as many values.
        inputs: number of values that enter the host; 0 where unknown. A seed that reads fewer values can only
            use the information that is left in them, so its value is reduced.
    """
    busy = (flops_per_param(candidate) / max_flops_per_param) ** _USE_POWER if max_flops_per_param else 1.0
    side = 1.0 if candidate.placement == "series" else _PARALLEL
    known = inputs > 0 and candidate.reads > 0
    view = math.sqrt(min(1.0, candidate.reads / inputs)) if known else 1.0
    return _strength(candidate) * busy * side * view


def _strength(candidate: Candidate) -> float:
    known = _STRENGTH.get(candidate.blueprint, _UNKNOWN)
    few = candidate.blueprint == "depthwise" and flops_per_param(candidate) < 2 * _FEW_POSITIONS
    return known / 2 if few else known


def flops_per_param(candidate: Candidate) -> float:
    """Return FLOPs per parameter: how often each is used in a forward."""
    return candidate.flops / candidate.params if candidate.params else 0.0


def total_allowance(packet: SystemStatePacket) -> Allowance | None:
    """Return what all seeds together may use, or the largest seed offered or alive where that is less.

    A seed's size is measured against this: a budget that no candidate could use up is no useful scale.
    None where there is no bound.
    """
    if packet.max_params is None:
        return None
    alive = [(seed.params, seed.flops) for seed in packet.seeds if seed.stage in ALIVE]
    sizes = [(0, 0), *alive, *((c.params, c.flops) for site in packet.sites for c in site.candidates)]
    params = min(packet.max_params - packet.params_host, max(size for size, _ in sizes))
    if packet.max_flops is None:
        return Allowance(params, math.inf)
    remaining = packet.max_flops - packet.flops_now + sum(flops for _, flops in alive)
    return Allowance(params, min(remaining, max(flops for _, flops in sizes)))

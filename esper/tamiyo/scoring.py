"""What a candidate is worth by its kind, before anything of it was measured in this run.

The constants were chosen on validation data, one set for all tasks: scripts/benchmarks/README.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from esper.leyline import ALIVE, Candidate, SiteState, SystemStatePacket
from esper.tamiyo.budget import Allowance

# What a parameter of a blueprint brought beside one of the best; others count as the middle of these.
_STRENGTH = {
    **{"depthwise": 1.0, "conv_branch": 1.0, "conv_heavy": 0.7, "conv_light": 0.7, "mlp": 0.7},
    **{"low_rank": 0.4, "squeeze_excite": 0.4},
}
_UNKNOWN = 0.7
# Over fewer positions a depthwise kernel sees mostly padding: at 2x2 it was worth half (digits, five splits).
_FEW_POSITIONS = 16
# Parameters that work at many positions do more each; by how much, as a power of FLOPs a parameter.
_USE_POWER = 0.25
# Width beside depth of the same size: on Fashion-MNIST two 3x3 seeds in series gained 3.9 points on a small
# convnet, two in parallel 2.1. Where only a parallel seed can use the room (narrow layers), it still wins.
_PARALLEL = 0.5


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate at a site, with what a policy expects of it: `worth` is for what it uses of a share."""

    site: SiteState
    candidate: Candidate
    rating: float
    worth: float
    share: Allowance

    @property
    def score(self) -> float:
        return self.worth * self.share.filled(self.candidate)


def prior_value(candidate: Candidate, most_work: float, inputs: int) -> float:
    """What a parameter of this kind of seed is worth beside the best kind, in [0, 1].

    `most_work` is the most that a parameter works among candidates that read the same values; `inputs` how
    many values enter the host (0: unknown). A seed that reads less than enters finds no more than was left.
    """
    busy = (work(candidate) / most_work) ** _USE_POWER if most_work else 1.0
    side = 1.0 if candidate.placement == "series" else _PARALLEL
    known = inputs > 0 and candidate.reads > 0
    view = math.sqrt(min(1.0, candidate.reads / inputs)) if known else 1.0
    return _strength(candidate) * busy * side * view


def _strength(candidate: Candidate) -> float:
    known = _STRENGTH.get(candidate.blueprint, _UNKNOWN)
    few = candidate.blueprint == "depthwise" and work(candidate) < 2 * _FEW_POSITIONS
    return known / 2 if few else known


def work(candidate: Candidate) -> float:
    """FLOPs a parameter: how often each works in a forward."""
    return candidate.flops / candidate.params if candidate.params else 0.0


def whole_share(packet: SystemStatePacket) -> Allowance | None:
    """What all of growth may use, or the largest seed on offer or alive where that is less; None: no bound.

    Against this a seed's size is small or large: a room that nothing on offer could fill says little.
    """
    if packet.max_params is None:
        return None
    alive = [(seed.params, seed.flops) for seed in packet.seeds if seed.stage in ALIVE]
    sizes = [(0, 0), *alive, *((c.params, c.flops) for site in packet.sites for c in site.candidates)]
    params = min(packet.max_params - packet.params_host, max(size for size, _ in sizes))
    if packet.max_flops is None:
        return Allowance(params, math.inf)
    room = packet.max_flops - packet.flops_now + sum(flops for _, flops in alive)
    return Allowance(params, min(room, max(flops for _, flops in sizes)))

"""Metrics of each seed's gradients over an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper.errors import AggregationError
from esper.leyline import EventName
from esper.tolaria.gradients.seed_shares import COLUMNS, CONFLICTS, SAMPLES, SHARE, SQUARES

PREFIX = "tolaria.grad_agg.seed."
# A share of the gradient that changes by more than this from one epoch to the next emits an event.
JUMP = 0.2
# A larger share of conflicting pairs emits an event, from a number of pairs on at which it is no chance.
HIGH_CONFLICT, ENOUGH_PAIRS = 0.5, 8


@dataclass(frozen=True, slots=True)
class SeedGradients:
    """The gradients of one seed over one epoch.

    Attributes:
        layer, seed, stage: which seed.
        weight: alpha if it has joined, else 0.
        alpha: its blending factor.
        norm: the root mean square of the norms over the sampled steps.
        share: the mean share in the squared norm of the whole gradient.
        share_delta: the change of `share` since the last epoch, None in the first.
        conflicts: pairs of micro-batches or objectives with a negative inner product.
        pairs: all pairs; `conflict_ratio` is None without any.
    """

    layer: str
    seed: int
    stage: str
    weight: float
    alpha: float
    norm: float
    share: float
    share_delta: float | None
    conflicts: int
    pairs: int

    @property
    def conflict_ratio(self) -> float | None:
        return self.conflicts / self.pairs if self.pairs else None

    def to_json(self) -> dict[str, Any]:
        """Layer, seed and stage, and every metric under its full name."""
        metrics = {
            "weight": self.weight,
            "norm": self.norm,
            "share": self.share,
            "share_delta": self.share_delta,
            "alpha": self.alpha,
            "conflicts": self.conflicts,
            "conflict_ratio": self.conflict_ratio,
        }
        place = {"layer": self.layer, "seed": self.seed, "stage": self.stage}
        return place | {PREFIX + name: value for name, value in metrics.items()}


def update_metrics(sums: Sequence[float], last_share: float | None) -> dict[str, Any]:
    """`norm`, `share`, `share_delta` and `conflicts` from one owner's sums (see `seed_shares`).

    Zeros for an owner without samples.

    Raises:
        AggregationError: the number of sums is wrong, or one is not finite.
    """
    if len(sums) != COLUMNS or not all(map(math.isfinite, sums)):
        raise AggregationError(f"an owner's sums are {list(sums)}; expected {COLUMNS} finite numbers")
    samples = max(sums[SAMPLES], 1.0)
    share = sums[SHARE] / samples
    return {
        "norm": math.sqrt(sums[SQUARES] / samples),
        "share": share,
        "share_delta": None if last_share is None else share - last_share,
        "conflicts": round(sums[CONFLICTS]),
    }


def warnings(seeds: Sequence[SeedGradients]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and data of an event for each share that has changed much, and each seed with many conflicts."""
    for seed in seeds:
        place = {"layer": seed.layer, "seed": seed.seed}
        if seed.share_delta is not None and abs(seed.share_delta) > JUMP:
            facts = {"share": seed.share, "share_delta": seed.share_delta, "threshold": JUMP}
            yield EventName.SEED_SHARE_JUMP, place | facts
        ratio = seed.conflict_ratio
        if ratio is not None and ratio > HIGH_CONFLICT and seed.pairs >= ENOUGH_PAIRS:
            facts = {"conflict_ratio": ratio, "pairs": seed.pairs, "threshold": HIGH_CONFLICT}
            yield EventName.SEED_CONFLICT_HIGH, place | facts

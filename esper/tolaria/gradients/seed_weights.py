"""How much of each seed is in the host: weights from stage and alpha, and what they may be used for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from esper.errors import AggregationError
from esper.leyline import JOINED, SeedStage


def resolve_weights(stages: Sequence[SeedStage], alphas: Sequence[float]) -> list[float]:
    """The weight of each seed in [0, 1]: its alpha where it has joined the host, 0 in any other stage.

    That is the share of the seed's answer that reaches the host; the host's own weight is 1. Raises
    `AggregationError` where there are not as many alphas as stages, and for one outside [0, 1] or NaN.
    """
    if len(stages) != len(alphas):
        raise AggregationError(f"{len(alphas)} alphas for {len(stages)} seeds; expected one for each")
    if wrong := [alpha for alpha in alphas if not (math.isfinite(alpha) and 0.0 <= alpha <= 1.0)]:
        raise AggregationError(f"a seed's alpha is {wrong[0]!r}; expected a number from 0 to 1")
    return [alpha if stage in JOINED else 0.0 for stage, alpha in zip(stages, alphas, strict=True)]


def mix(groups: Iterable[dict[str, Any]], weights: Mapping[str, float]) -> None:
    """Scale the next step of the parameter groups that `weights` names; all others keep theirs.

    The step and not the gradient is scaled, by the learning rate: Adam would undo the latter. Raises
    `AggregationError` for a weight that is negative or not finite.
    """
    if wrong := {name: w for name, w in weights.items() if not 0.0 <= w < math.inf}:
        raise AggregationError(f"weights of seeds are {wrong}; expected finite numbers of at least 0")
    for group in groups:
        if group["name"] in weights:
            group["lr"] *= weights[group["name"]]

"""Gradient norms of the layers inside each seed, the largest few of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from esper.errors import AggregationError


def layer_norms(names: Sequence[str], squares: Sequence[float], samples: float) -> dict[str, float]:
    """The norm of each layer's gradient, from the summed squares of its parameters, by the layer's name.

    `names` are the parameters' dotted names; a layer is what stands before the last dot. The root of the
    mean over `samples`; zeros where there were none. Raises `AggregationError` for lists of unlike lengths.
    """
    if len(names) != len(squares):
        raise AggregationError(f"{len(squares)} norms for {len(names)} parameters; expected one for each")
    sums: dict[str, float] = {}
    for name, square in zip(names, squares, strict=True):
        layer = name.rpartition(".")[0] or name
        sums[layer] = sums.get(layer, 0.0) + square
    return {layer: math.sqrt(total / max(samples, 1.0)) for layer, total in sums.items()}


def largest(norms: Mapping[str, float], topk: int) -> dict[str, float]:
    """The `topk` layers with the largest norms, largest first; equal ones in the seed's own order."""
    if topk < 1:
        raise AggregationError(f"the {topk} largest layers are wanted; expected at least 1")
    return dict(sorted(norms.items(), key=lambda item: -item[1])[:topk])

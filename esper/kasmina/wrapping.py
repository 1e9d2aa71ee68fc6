"""From a model to one that can grow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from esper.errors import GrowthError
from esper.kasmina.host_checks import host_problems
from esper.kasmina.kernels import KernelCache, KernelSource
from esper.kasmina.model import MorphableModel
from esper.kasmina.model_copy import copy_model
from esper.kasmina.target_layers import LayerTarget, match_layers


def wrap(
    model: nn.Module,
    target_layers: Sequence[LayerTarget] = ("nn.Linear",),
    seeds_per_layer: int = 4,
    cache_size_mb: float = 128,
    telemetry_enabled: bool = True,
    preserve_original: bool = True,
    *,
    kernels: KernelSource | None = None,
    seed: int = 0,
) -> MorphableModel:
    """Make a model growable at the layers that `target_layers` select.

    A target is a layer class, the name of one, or a pattern of module paths; see `match_layers`.
    With `preserve_original` a deep copy is grown and `model` is left as it is. `kernels` is where
    `load_kernel` finds trained seeds, cached in memory up to `cache_size_mb`. Without
    `telemetry_enabled` no health is taken. `seed` fixes the weights of later seeds.
    Raises `GrowthError` for targets that match nothing, and, naming the module, for a model that cannot be
    grown or saved (`host_problems`) or copied.
    """
    layers = match_layers(model, target_layers)
    if problems := host_problems(model):
        raise GrowthError("; ".join(problems))
    host = copy_model(model) if preserve_original else model
    grown = MorphableModel(host, layers, seeds_per_layer, rng_seed=seed)
    grown.telemetry_enabled = telemetry_enabled
    if kernels is not None:
        grown.kernels = KernelCache(kernels, cache_size_mb)
    return grown

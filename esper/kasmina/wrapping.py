"""`wrap`: make a model growable."""

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
    """Make a model growable at the layers that `target_layers` selects.

    Args:
        model: the host network.
        target_layers: layer classes, names of classes, or patterns of module paths; see `match_layers`.
        seeds_per_layer: number of seed slots at each layer.
        cache_size_mb: memory for kernels that were fetched, in units of 2**20 bytes.
        telemetry_enabled: whether the health of seeds is measured.
        preserve_original: grow a deep copy and leave `model` unchanged.
        kernels: where `MorphableModel.load_kernel` finds trained seeds.
        seed: seed of the generator that initialises the weights of new seeds.

    Returns:
        The growable model; its forward is the host's as long as all slots are dormant.

    Raises:
        GrowthError: a target matches nothing, or the model cannot be grown, saved or copied; the message
            names the module.

    Example:
        >>> model = wrap(torch.nn.Sequential(torch.nn.Linear(4, 2)), ["nn.Linear"], seeds_per_layer=1)
        >>> model.get_layer_names()
        ['0']
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

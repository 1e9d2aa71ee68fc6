"""Cost and fit of a module, measured by running it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper.errors import GrowthError
from esper.kasmina.blueprints.cost import Cost, SiteShape


def measured_cost(module: nn.Module, shape: SiteShape) -> Cost:
    """Measure a module's cost.

    Args:
        module: the module; its mode is restored.
        shape: the shapes that it maps.

    Returns:
        Its parameters, and the FLOPs that `torch.utils.flop_counter` counts for one sample in eval mode.

    Example:
        >>> measured_cost(torch.nn.Linear(4, 2, bias=False), SiteShape("features", (4,), (2,)))
        Cost(params=8, flops=16)
    """
    training = module.training
    module.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), counter:
        module(torch.zeros(1, *shape.in_shape))
    module.train(training)
    return Cost(sum(p.numel() for p in module.parameters()), counter.get_total_flops())


def trial_mismatch(build: Callable[[], nn.Module], shape: SiteShape) -> str | None:
    """Return why the module that `build` makes does not fit `shape`, or None where it does."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            got = build()(torch.zeros(2, *shape.in_shape))
    except (GrowthError, RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"it fails on a batch of shape {(2, *shape.in_shape)}: {error}"
    if tuple(got.shape) != (2, *shape.out_shape):
        return f"its output has shape {tuple(got.shape)}, the layer's has {(2, *shape.out_shape)}"
    return None

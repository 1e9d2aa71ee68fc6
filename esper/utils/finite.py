"""Which weights of a model are no numbers any more; asked on its own device, between two steps."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def non_finite(model: nn.Module) -> list[str]:
    """Names of the parameters that hold a NaN or an infinity, and of the buffers that hold a NaN.

    A buffer may be infinite on purpose, as an attention mask is. Waits for the device once.
    """
    weights = _floats(model.named_parameters())
    buffers = _floats(model.named_buffers())
    tensors = [tensor for _, tensor in (*weights, *buffers)]
    if not tensors:
        return []
    largest = torch._foreach_norm(tensors, math.inf)
    values = torch.stack([norm.float().to(tensors[0].device, non_blocking=True) for norm in largest])
    if values.isfinite().all():
        return []
    found = values.tolist()
    bad = [name for (name, _), value in zip(weights, found, strict=False) if not math.isfinite(value)]
    rest = zip(buffers, found[len(weights) :], strict=True)
    return bad + [name for (name, _), value in rest if math.isnan(value)]


def _floats(named: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return [(name, t.detach()) for name, t in named if t.is_floating_point() and t.numel()]

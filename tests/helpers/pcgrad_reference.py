"""A reference implementation of PCGrad in plain float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def projected_sum(gradients: Sequence[Tensor], orders: Sequence[Sequence[int]]) -> Tensor:
    """Algorithm 1 of Yu et al. (2020), with given shuffles: orders[i] is the order for gradient i."""
    originals = [g.reshape(-1).double() for g in gradients]
    total = torch.zeros_like(originals[0])
    for i, order in enumerate(orders):
        current = originals[i].clone()
        for j in order:
            if j == i:
                continue
            inner = torch.dot(current, originals[j])
            if inner < 0:
                current -= inner / torch.dot(originals[j], originals[j]) * originals[j]
        total += current
    return total

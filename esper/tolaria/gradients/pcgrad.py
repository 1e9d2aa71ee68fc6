"""PCGrad: projecting conflicting gradients (Yu et al., 2020, arXiv:2001.06782, algorithm 1).

Each gradient is projected, for one other gradient after the other, onto the normal plane of that other's
*original* gradient if they conflict. All results are in the span of the gradients, so the algorithm works on
their (n, n) Gram matrix and ends with one weight per gradient: the gradients themselves are read only twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper.errors import AggregationError
from esper.tolaria.gradients.aggregator import Aggregator, Combined
from esper.tolaria.gradients.gram import weighted_sum
from esper.tolaria.gradients.tasks import Tasks


def draw_orders(count: int, generator: torch.Generator) -> Tensor:
    """For each of `count` gradients an order of all of them: (count, count), each row a permutation."""
    return torch.stack([torch.randperm(count, generator=generator) for _ in range(count)])


def pcgrad_weights(products: Tensor, orders: Tensor, epsilon: float) -> Tensor:
    """The weight of each gradient in the sum of the projected ones: (n,).

    Does not synchronise with the device.

    Args:
        products: the Gram matrix (n, n) in float64.
        orders: (n, n); row i is the order in which gradient i is projected (i itself is skipped).
        epsilon: the norm up to which a gradient counts as zero, for which there is no projection.
    """
    count = products.shape[0]
    weights = torch.eye(count, dtype=products.dtype, device=products.device)
    squares = products.diagonal()[orders]
    itself = torch.arange(count, device=products.device).unsqueeze(1)
    against = (squares > epsilon**2) & (orders != itself)
    shares = torch.where(against, -1 / squares, 0.0)
    # each turn projects every gradient for its next one
    turns = zip(products[orders].unbind(1), shares.split(1, 1), orders.split(1, 1), strict=True)
    for others, share, other in turns:
        inner = torch.linalg.vecdot(weights, others).unsqueeze(1)
        weights.scatter_add_(1, other, inner.clamp_(max=0).mul_(share))
    return weights.sum(dim=0)


class PCGrad(Aggregator):
    """The sum of the projected gradients.

    Args:
        generator: draws the orders; its state is saved.
        epsilon: the norm up to which a gradient counts as zero.

    Raises:
        AggregationError: `epsilon` is negative.
    """

    def __init__(self, generator: torch.Generator, epsilon: float = 1e-12) -> None:
        if not epsilon >= 0:
            raise AggregationError(f"epsilon is {epsilon}; expected a norm of at least 0")
        self.generator = generator
        self.epsilon = epsilon

    def combine(self, tasks: Tasks) -> Combined:
        if not tasks.shared:
            return Combined(tasks.unshared())
        orders = draw_orders(len(tasks.rows), self.generator)
        orders = orders.to(tasks.products.device, non_blocking=True)
        weights = pcgrad_weights(tasks.products, orders, self.epsilon)
        return Combined(tasks.with_shared(weighted_sum(weights, tasks.matrix)), weights, (weights != 1).any())

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())

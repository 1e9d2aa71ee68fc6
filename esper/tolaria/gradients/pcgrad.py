"""PCGrad: projecting conflicting gradients (Yu et al., 2020, arXiv:2001.06782, algorithm 1).

Each gradient loses, one other after the other, what it has against that other's *original* gradient. All
results lie in the span of the gradients, so the algorithm runs on their n by n Gram matrix and ends with one
weight a gradient: nothing of the parameters' length is touched but once before and once after.
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
    """The weight with which each gradient enters the sum of the projected ones: (n,).

    `products` is the Gram matrix (n, n) in float64; row i of `orders` (n, n) says in which order gradient i
    meets the others (itself is passed over). On a gradient of a norm of at most `epsilon` nothing is
    projected. Waits for no device.
    """
    count = products.shape[0]
    weights = torch.eye(count, dtype=products.dtype, device=products.device)
    squares = products.diagonal()[orders]
    itself = torch.arange(count, device=products.device).unsqueeze(1)
    against = (squares > epsilon**2) & (orders != itself)
    shares = torch.where(against, -1 / squares, 0.0)
    # one turn lets every gradient meet its next
    turns = zip(products[orders].unbind(1), shares.split(1, 1), orders.split(1, 1), strict=True)
    for others, share, other in turns:
        inner = torch.linalg.vecdot(weights, others).unsqueeze(1)
        weights.scatter_add_(1, other, inner.clamp_(max=0).mul_(share))
    return weights.sum(dim=0)


class PCGrad(Aggregator):
    """The sum of the projected gradients; the order is drawn from `generator`, whose state is saved.

    `epsilon` is the norm up to which a gradient counts as zero. Raises `AggregationError` for a negative one.
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

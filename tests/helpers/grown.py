"""A small host with seeds and optimisers, without a whole run around."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.config import SeedConfig
from esper.kasmina import MorphableModel, SeedManager, TopologyChange, TrainingPosition, wrap
from esper.leyline import AdaptationCommand
from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerFactory, OptimizerManager

SHAPE = (12,)


class Host(nn.Module):
    """Linear layers `a`, `b` (12 wide) and `head` (3 classes); with dropout and batch norm if asked."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.a = nn.Linear(12, 12)
        self.norm = nn.BatchNorm1d(12) if norm else nn.Identity()
        self.b = nn.Linear(12, 12)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.b(self.norm(self.a(x)).relu()).relu()))


@dataclass
class Grown:
    """A wrapped host, its seeds and its optimisers."""

    model: MorphableModel
    seeds: SeedManager
    optimizers: OptimizerManager

    def do(self, command: AdaptationCommand, step: int = 0, epoch: int = 0) -> TopologyChange:
        """Carry a command out and let the optimisers follow."""
        change = self.seeds.apply(command, TrainingPosition(step, epoch))
        self.optimizers.apply(change, step)
        return change

    def advance(self, step: int, epoch: int = 0) -> TopologyChange:
        change = self.seeds.advance(TrainingPosition(step, epoch))
        self.optimizers.apply(change, step)
        return change

    def train_step(self, seed: int = 0) -> None:
        """One plain step on random numbers, isolated seeds included."""
        x, y = batch(8, seed=seed)
        nn.functional.cross_entropy(self.model.train()(x), y).backward()
        self.optimizers.main.step()
        self.optimizers.main.zero_grad()
        self.seeds.learn(None, seed)
        for optimizer in self.optimizers.isolated.values():
            optimizer.step()
            optimizer.zero_grad()
        self.seeds.tick()


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=0.01)


def make_host(
    *,
    factory: OptimizerFactory = sgd,
    host: Callable[[], nn.Module] = Host,
    targets: tuple[str, ...] = ("a", "b"),
    slots: int = 2,
    **seed_options: Any,
) -> Grown:
    """A host with fixed weights, wrapped and probed."""
    torch.manual_seed(0)
    model = wrap(host(), targets, slots)
    model.observe(torch.zeros(2, *SHAPE))
    seeds = SeedManager(model, SeedConfig(**({"blend_steps": 4, "warmup_steps": 2} | seed_options)))
    optimizers = OptimizerManager(model, factory, rates=BaseRates(0.1, 0.05, 0.02, 2))
    return Grown(model, seeds, optimizers)


def batch(samples: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (samples, 12) and classes (samples,) that can be learnt, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, *SHAPE, generator=generator)
    return x, x[:, :3].argmax(dim=1)


def split(whole: tuple[Tensor, Tensor], sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """A batch cut into micro-batches of these sizes."""
    return list(zip(whole[0].split(sizes), whole[1].split(sizes), strict=True))


def grad_norm(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))

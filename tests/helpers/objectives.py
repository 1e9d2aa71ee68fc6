"""A host with a trunk, two heads and a loss of two objectives by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class TwoHeads(nn.Module):
    """Sites `a` and `b` as the plain host has, with norms between, and a head for each of two tasks."""

    def __init__(self, norm: str = "batch", dropout: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Linear(12, 12)
        self.norm = nn.BatchNorm1d(12) if norm == "batch" else nn.LayerNorm(12)
        self.b = nn.Linear(12, 12)
        self.drop = nn.Dropout(dropout)
        self.first = nn.Linear(12, 3)
        self.second = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.drop(self.b(self.norm(self.a(x)).relu()).relu())
        return {"first": self.first(x), "second": self.second(x)}


def two_losses(output: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """The class, and a number that should be far from the class's; these objectives conflict."""
    first = nn.functional.cross_entropy(output["first"], targets)
    number = torch.tanh(output["second"].squeeze(1).float())
    return {"first": first, "second": -3 * (number * (targets - 1)).mean()}


class Heads(nn.Module):
    """Digits and whether they are odd."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.digit, self.odd = nn.Linear(16, 10), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"digit": self.digit(features), "odd": self.odd(features)}


def heads_loss(output: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    truth = {"digit": targets, "odd": targets % 2}
    return {name: nn.functional.cross_entropy(output[name], truth[name]) for name in output}

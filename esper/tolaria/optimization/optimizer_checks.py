"""Rejects optimisers that do not support the learning rate schedule or the host's sparse gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from esper.config.messages import error_message
from esper.errors import ConfigError


def check_rates(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ConfigError` if a parameter group has no learning rate."""
    if any("lr" not in group for group in optimizer.param_groups):
        raise ConfigError(
            error_message(
                "optimization.optimizer",
                type(optimizer).__name__,
                "an optimiser whose groups have lr, which the schedule sets",
            )
        )


def check_sparse(host: nn.Module, factory: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]) -> None:
    """Raise `ConfigError` if a layer has sparse gradients and the optimiser does not support them."""
    kinds = nn.Embedding | nn.EmbeddingBag
    found = [name for name, m in host.named_modules() if isinstance(m, kinds) and m.sparse]
    if not found:
        return
    tried = nn.Parameter(torch.zeros(2, 2))
    optimizer = factory([{"params": [tried], "name": "host", "base_lr": 0.0}])
    if reason := _sparse_error(optimizer, tried):
        expected = f"one for the sparse gradients of {found[0]!r}, or sparse=False there ({reason})"
        raise ConfigError(error_message("optimization.optimizer", type(optimizer).__name__, expected))


def _sparse_error(optimizer: torch.optim.Optimizer, tried: nn.Parameter) -> str:
    tried.grad = torch.ones(2, 2).to_sparse(1)
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error)
    kept = [value for value in optimizer.state[tried].values() if isinstance(value, torch.Tensor)]
    return "its state is sparse and could not be saved" if any(t.is_sparse for t in kept) else ""

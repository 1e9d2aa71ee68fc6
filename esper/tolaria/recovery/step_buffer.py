"""Buffers losses and gradient norms on the device; they are read a few steps at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from esper.tolaria.loss.divisors import BatchWeight
from esper.tolaria.loss.objectives import CombineLosses, Losses, sum_losses, total_loss

# On an accelerator reading a value waits for the device, so this many steps are read at once.
ACCELERATOR_STEPS = 16


class StepBuffer:
    """Keeps each step's loss and gradient norm on their device until `read`; launches no kernel for them.

    It is passed to the stepper as one more meter. `interval_steps` None means every step on the CPU, where
    reading costs nothing, and every 16 elsewhere.
    """

    def __init__(
        self,
        device: torch.device,
        interval_steps: int | None = None,
        combine_losses: CombineLosses = sum_losses,
    ) -> None:
        self.combine_losses = combine_losses
        self.interval = interval_steps or (1 if device.type == "cpu" else ACCELERATOR_STEPS)
        self._parts: list[tuple[Tensor, BatchWeight]] = []
        self._losses: list[Tensor] = []
        self._units: list[float | Tensor] = []
        self._norms: list[Tensor | None] = []

    def add(
        self, losses: Losses, output: Any, targets: Any, samples: int, weight: BatchWeight | None = None
    ) -> None:
        """Add the loss of one micro-batch of `samples`."""
        loss = total_loss(losses, self.combine_losses)
        self._parts.append((loss.detach(), weight or BatchWeight(samples)))

    def end_step(self, norm: Tensor | None) -> bool:
        """Close a step with its gradient norm, if there is one. Returns True if it is time to read."""
        units: float | Tensor = sum(weight.units for _, weight in self._parts)
        first, *others = self._parts
        loss = first[0]
        if others or first[1].summed:
            loss = _mean(self._parts, units)
        self._losses.append(loss)
        self._units.append(units)
        self._norms.append(norm)
        self._parts.clear()
        return len(self._losses) >= self.interval

    def read(self) -> list[tuple[float | None, float | None]]:
        """Loss and gradient norm of every step since the last read, oldest first; waits for the device.

        The loss is None for a step in which nothing counted (all labels ignored).
        """
        losses = [
            None if math.isnan(loss) and float(units) == 0 else loss
            for loss, units in zip(_values(self._losses), self._units, strict=True)
        ]
        norms = iter(_values([norm for norm in self._norms if norm is not None]))
        found = [
            (loss, None if norm is None else next(norms))
            for loss, norm in zip(losses, self._norms, strict=True)
        ]
        self.forget()
        return found

    def forget(self) -> None:
        """Drop what was not read: it belongs to steps that are undone."""
        self._parts.clear()
        self._losses.clear()
        self._units.clear()
        self._norms.clear()


def _mean(parts: list[tuple[Tensor, BatchWeight]], units: float | Tensor) -> Tensor:
    if isinstance(units, Tensor) or parts[0][1].summed:
        sums = [weight.sum_of(loss) for loss, weight in parts]
        return torch.stack(sums).sum() / units
    return torch.stack([loss * (weight.units / units) for loss, weight in parts]).sum()


def _values(tensors: list[Tensor]) -> list[float]:
    if len(tensors) < 2 or tensors[0].device.type == "cpu":
        return [tensor.item() for tensor in tensors]
    device = tensors[0].device
    stacked: list[float] = torch.stack([t.float().to(device, non_blocking=True) for t in tensors]).tolist()
    return stacked

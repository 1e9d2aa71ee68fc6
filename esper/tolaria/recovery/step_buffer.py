"""What the governor judges by, gathered on the device and read a few steps at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from esper.tolaria.loss.divisors import BatchWeight
from esper.tolaria.loss.objectives import Losses, Total, in_total, sum_losses

# On an accelerator reading a value waits for it; so many steps are then read at once.
ACCELERATOR_STEPS = 16


class StepBuffer:
    """Keeps each step's loss and gradient norm where they are until `read`; no kernel is launched for them.

    Handed to the stepper as one more meter. `interval_steps` null means every step on the CPU, where a value
    costs nothing to read, and every 16 elsewhere.
    """

    def __init__(
        self, device: torch.device, interval_steps: int | None = None, total: Total = sum_losses
    ) -> None:
        self.total = total
        self.interval = interval_steps or (1 if device.type == "cpu" else ACCELERATOR_STEPS)
        self._parts: list[tuple[Tensor, BatchWeight]] = []
        self._losses: list[Tensor] = []
        self._units: list[float | Tensor] = []
        self._norms: list[Tensor | None] = []

    def add(
        self, losses: Losses, output: Any, targets: Any, samples: int, weight: BatchWeight | None = None
    ) -> None:
        """Note the loss of one micro-batch of `samples`."""
        loss = in_total(losses, self.total)
        self._parts.append((loss.detach(), weight or BatchWeight(samples)))

    def end_step(self, norm: Tensor | None) -> bool:
        """Close a step, with the norm of its gradient where there was one; True where it is time to read."""
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
        """Loss and gradient norm of every step since the last time, oldest first; waits for the device.

        None for the loss of a step in which nothing counted (all labels ignored).
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
        """Drop what has not been read: it belongs to steps that are undone."""
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

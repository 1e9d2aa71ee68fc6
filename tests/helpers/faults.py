"""Faults that are put into a run on purpose: objects that remember how often they have struck."""

from __future__ import annotations

from typing import Any

import torch
from helpers.runs import Notes
from torch import Tensor, nn

from esper.tolaria.loop import TrainingLoop


class FaultyLoss(nn.Module):
    """Cross entropy that is multiplied by `factor` at training batches number `at` (counted from 1, with
    those that are done again), and in evaluation never. A batch of less than `size` samples is a probe.
    """

    def __init__(self, *at: int, factor: float = float("nan"), size: int = 32) -> None:
        super().__init__()
        self.at = at
        self.size = size
        self.factor = factor
        self.calls = 0
        self.fired = 0

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(output, targets)
        if not output.requires_grad or len(targets) < self.size:
            return loss
        self.calls += 1
        if self.calls not in self.at:
            return loss
        self.fired += 1
        return loss * self.factor


class FaultyGradient:
    """Multiplies the gradient of the host's first parameter in steps number `at` (from 1, with those that are
    done again).
    """

    def __init__(self, run: TrainingLoop, *at: int, factor: float = float("nan")) -> None:
        self.at = at
        self.factor = factor
        self.steps = 0
        self.stepping = False
        self.fired = 0
        self._step = run.stepper.step
        run.stepper.step = self._count  # type: ignore[method-assign]
        next(run.model.host.parameters()).register_hook(self._strike)

    def _count(self, *args: Any, **kwargs: Any) -> Tensor | None:
        self.steps += 1
        self.stepping = True
        try:
            return self._step(*args, **kwargs)
        finally:
            self.stepping = False

    def _strike(self, gradient: Tensor) -> Tensor:
        if not self.stepping or self.steps not in self.at:
            return gradient
        self.fired += 1
        return gradient * self.factor


class FaultyWeight(Notes):
    """Records that overwrite a weight after steps number `at` (from 1, with those that are done again).

    `of_seed` takes the first seed that lives rather than the host.
    """

    def __init__(self, *at: int, value: float = float("nan"), of_seed: bool = False) -> None:
        super().__init__()
        self.at = at
        self.value = value
        self.of_seed = of_seed
        self.fired = 0
        self.run: TrainingLoop | None = None

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        super().progress(step_in_epoch, loss)
        if len(self.places) in self.at:
            assert self.run is not None
            model = self.run.model
            owner = model.seed_module(model.alive_records()[0]) if self.of_seed else model.host
            with torch.no_grad():
                next(p for p in owner.parameters() if p.requires_grad).view(-1)[0] = self.value
            self.fired += 1

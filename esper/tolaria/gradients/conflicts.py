"""Counts conflicts between the gradients of tasks, on the device, read once per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from esper.leyline import EventName, Level
from esper.tolaria.events import Telemetry
from esper.tolaria.gradients.aggregator import Combined
from esper.tolaria.gradients.gram import count_conflicts, widest_dtype


class ConflictStats:
    """Counts the conflicts of steps with several tasks.

    A conflict is a pair of tasks whose gradients have a negative inner product over the shared parameters.
    `conflict_ratio` is the share of conflicts in all pairs, in [0, 1]; `grad_conflict_rate` is the mean over
    steps of conflicts / (n - 1), which may exceed 1; `pcgrad_applied` is the number of steps that PCGrad
    changed.

    Args:
        device: where the counts are kept.
        threshold: a `conflict_ratio` above it emits an event.
    """

    def __init__(self, device: torch.device, threshold: float) -> None:
        self.threshold = threshold
        self.microbatches = 0
        # conflicts, their rates, mean weights, steps that PCGrad changed
        self._sums = torch.zeros(4, dtype=widest_dtype(device), device=device)
        self._steps = self._weighted = self._pairs = 0
        self._last: tuple[Tensor, int] | None = None
        self._idle_emitted = False

    def begin(self) -> None:
        """Start a window (the micro-batches of one step)."""
        self._last = None

    def add(self, products: Tensor | None, combined: Combined, count: int) -> None:
        """Add a step of `count` tasks, without synchronising with the device.

        Args:
            products: the Gram matrix (count, count) of the gradients; None if no parameter is shared.
            combined: the result of the aggregator.
            count: the number of tasks.
        """
        conflicts, rates, weights, projected = self._sums.unbind()
        found = self._sums.new_zeros(())
        if products is not None:
            found = count_conflicts(products).to(found, non_blocking=True)
            conflicts.add_(found)
            rates.add_(found, alpha=1 / (count - 1))
        if combined.weights is not None:
            given = combined.weights
            weights.add_(given.mean() if isinstance(given, Tensor) else sum(given) / len(given))
            self._weighted += 1
        if combined.projected is not None:
            projected.add_(combined.projected)
        self._steps += 1
        self._pairs += count * (count - 1) // 2
        self._last = found, count

    def last(self) -> Mapping[str, Tensor]:
        """The conflicts of the last step, on the device; empty if it had a single task."""
        if self._last is None:
            return {}
        conflicts, count = self._last
        return {
            "conflicts": conflicts,
            "conflict_ratio": conflicts / (count * (count - 1) // 2),
            "grad_conflict_rate": conflicts / (count - 1),
        }

    def flush(self, telemetry: Telemetry) -> dict[str, Any]:
        """Emit the statistics since the last call and reset them; synchronises with the device."""
        conflicts, rates, weights, projected = self._sums.tolist()
        ratio = conflicts / self._pairs if self._pairs else 0.0
        found = {
            "microbatches_total": self.microbatches,
            "steps": self._steps,
            "conflicts": int(conflicts),
            "conflict_ratio": ratio,
            "grad_conflict_rate": rates / max(1, self._steps),
            "weights_mean": weights / self._weighted if self._weighted else None,
            "pcgrad_applied": int(projected),
        }
        if not self._steps and not self._idle_emitted:
            notes = "trainer.aggregation is idle: no step had several tasks (micro-batches or objectives)"
            telemetry.emit(EventName.OPTION_IDLE, {"notes": notes})
            self._idle_emitted = True
        self._sums.zero_()
        self._steps = self._weighted = self._pairs = 0
        telemetry.emit(EventName.GRAD_AGG, found, level=Level.DEBUG)
        if ratio > self.threshold:
            data = {"conflict_ratio": ratio, "threshold": self.threshold}
            telemetry.emit(EventName.GRAD_CONFLICT_HIGH, data)
        return found

    def state_dict(self) -> dict[str, Any]:
        counts = {"steps": self._steps, "weighted": self._weighted, "pairs": self._pairs}
        return {"microbatches": self.microbatches, "sums": self._sums, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.microbatches = state["microbatches"]
        self._sums.copy_(state["sums"])
        self._steps, self._weighted, self._pairs = state["steps"], state["weighted"], state["pairs"]

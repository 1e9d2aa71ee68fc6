"""The backward passes of a step: from the losses of its micro-batches to the gradients for the optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from esper.tolaria.gradients.aggregator import Aggregator
from esper.tolaria.gradients.conflicts import ConflictStats
from esper.tolaria.gradients.tasks import Row, Tasks
from esper.tolaria.loss.objectives import Losses, scaled, total_loss
from esper.tolaria.optimization.precision import Precision


class Backward(Protocol):
    """Accumulates the gradient of a window, the micro-batches of one step, in the parameters' `grad`."""

    def begin(self, microbatches: int = 1) -> None:
        """Start a window of so many micro-batches."""

    def add(self, losses: Losses, share: float | Tensor) -> None:
        """Differentiate a micro-batch with this share of the window's mean, and free its graph."""

    def finish(self) -> None:
        """End the window: the gradients are complete."""


class PlainBackward:
    """Plain accumulation: the gradient of the sum of all losses, in one backward pass per micro-batch."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self.microbatches = 1

    def begin(self, microbatches: int = 1) -> None:
        self.microbatches = microbatches

    def add(self, losses: Losses, share: float | Tensor) -> None:
        loss = total_loss(losses)
        if loss.requires_grad:  # not if everything is frozen and no seed has joined yet
            self.precision.backward(scaled(loss, share))

    def finish(self) -> None:
        """Nothing to do: the gradients are accumulated already."""


class TaskBackward:
    """Computes a separate gradient for each task, by one vector-Jacobian product, and aggregates them.

    The tasks are the objectives if the loss has several by name (their gradients are summed over the window),
    else the micro-batches. With a single task its gradient is unchanged. Memory: the size of the model times
    the number of tasks, and once more while they are combined. Seeds in isolation get the gradient of the
    plain sum. `passes` is the number of backward passes of the last micro-batch.

    Args:
        aggregator: combines the gradients.
        precision: scales the losses.
        parameters: returns the parameters whose gradients are aggregated.
        conflict_stats: counts conflicts.
        on_tasks: called with the gradients of several tasks, one row per task, and their parameters.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        precision: Precision,
        parameters: Callable[[], Sequence[nn.Parameter]],
        conflict_stats: ConflictStats,
        on_tasks: Callable[[Sequence[Row], Sequence[nn.Parameter]], None] | None = None,
    ) -> None:
        self.on_tasks = on_tasks
        self.aggregator = aggregator
        self.precision = precision
        self.parameters = parameters
        self.conflict_stats = conflict_stats
        self.passes = 1
        self.begin()

    def begin(self, microbatches: int = 1) -> None:
        # also what is left of a window that did not end
        self._clear()
        self.conflict_stats.begin()

    def _clear(self) -> None:
        self._rows: dict[str, Row] = {}
        self._shares: list[float | Tensor] = []

    def add(self, losses: Losses, share: float | Tensor) -> None:
        self.conflict_stats.microbatches += 1
        if isinstance(losses, Tensor):
            factor = share if self.aggregator.by_share else 1.0
            self._rows[str(len(self._shares))] = self._differentiate(losses, factor, last=True)
            self._shares.append(share)
            return
        left = self.passes = len(losses)
        for name, loss in losses.items():
            left -= 1
            row = self._differentiate(loss, share, last=left == 0)
            self._rows[name] = _added(self._rows[name], row) if name in self._rows else row

    def _differentiate(self, loss: Tensor, factor: float | Tensor, *, last: bool) -> Row:
        parameters = self.parameters()
        if not loss.requires_grad:
            return [None] * len(parameters)
        value = self.precision.scaled(scaled(loss, factor))
        trainable = [p for p in parameters if p.requires_grad]  # some may be frozen now
        found = iter(torch.autograd.grad(value, trainable, retain_graph=not last, allow_unused=True))
        return [next(found) if p.requires_grad else None for p in parameters]

    def finish(self) -> None:
        tasks = Tasks(tuple(self._rows), tuple(self._rows.values()), self._shares or None)
        if len(tasks.rows) == 1:
            gradients: Row = tasks.rows[0]
        else:
            combined = self.aggregator.combine(tasks)
            self.conflict_stats.add(tasks.products if tasks.shared else None, combined, len(tasks.rows))
            gradients = combined.gradients
            if self.on_tasks is not None:
                self.on_tasks(tasks.rows, self.parameters())
        for parameter, gradient in zip(self.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self._clear()

    def state_dict(self) -> dict[str, Any]:
        return {"aggregator": self.aggregator.state_dict(), "tally": self.conflict_stats.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.aggregator.load_state_dict(state["aggregator"])
        self.conflict_stats.load_state_dict(state["tally"])


def _added(row: Row, other: Row) -> Row:
    # out of place: gradients returned by autograd may share memory
    return [a if b is None else b if a is None else a + b for a, b in zip(row, other, strict=True)]

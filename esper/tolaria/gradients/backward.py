"""From the losses of a step's window to the gradients that the optimiser is given."""

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
    """Takes the losses of one window after the other and leaves its gradient in the parameters' `grad`."""

    def begin(self, microbatches: int = 1) -> None:
        """A new window of so many micro-batches."""

    def add(self, losses: Losses, share: float | Tensor) -> None:
        """Differentiate a micro-batch that has this share of the window's mean, and free its graph."""

    def finish(self) -> None:
        """The window is whole."""


class PlainBackward:
    """Plain accumulation: the gradient of the sum of everything, in one backward pass a micro-batch."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self.microbatches = 1

    def begin(self, microbatches: int = 1) -> None:
        self.microbatches = microbatches

    def add(self, losses: Losses, share: float | Tensor) -> None:
        loss = total_loss(losses)
        if loss.requires_grad:  # not where everything is frozen, before a seed has joined
            self.precision.backward(scaled(loss, share))

    def finish(self) -> None:
        """Everything is in place already."""


class TaskBackward:
    """Gives each task a gradient of its own, by one vector-Jacobian product, and has them combined.

    The tasks are the objectives where the loss has names for them (their gradients add up over the window),
    else its micro-batches. A window with a single task is left as it is. All gradients are kept until the
    window ends: as many times the model's size as there are tasks, and once more while they are combined.

    Seeds in isolation hear what they would hear of the plain sum. `on_tasks` is shown the gradients of
    several tasks, one row a task, and the parameters they are for. `passes` is how many backward passes the
    last micro-batch took.
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
        # also what a window left that was never finished
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
        wanted = [p for p in parameters if p.requires_grad]  # some may be frozen for now
        found = iter(torch.autograd.grad(value, wanted, retain_graph=not last, allow_unused=True))
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
    # out of place: what autograd gives may share memory
    return [a if b is None else b if a is None else a + b for a, b in zip(row, other, strict=True)]

"""Adapts aggregators of other libraries, such as torchjd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from esper.errors import AggregationError
from esper.tolaria.gradients.aggregator import Aggregator, Combined
from esper.tolaria.gradients.tasks import Tasks


class MatrixAggregator(Aggregator):
    """Combines the shared gradients, (tasks, length), by a function that returns a vector (length,).

    If the function is a module, its state dict is saved.

    Raises:
        AggregationError: from `combine`, for a result of another shape.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def combine(self, tasks: Tasks) -> Combined:
        if not tasks.shared:
            return Combined(tasks.unshared())
        matrix = tasks.matrix
        vector = self.function(matrix)
        if not isinstance(vector, Tensor) or vector.shape != matrix.shape[1:]:
            given = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
            raise AggregationError(
                f"{type(self.function).__name__} returned {given} for a matrix {tuple(matrix.shape)}; "
                f"expected a vector of shape ({matrix.shape[1]},)"
            )
        return Combined(tasks.with_shared(vector.to(matrix.dtype)))

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.function.state_dict()} if isinstance(self.function, nn.Module) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if isinstance(self.function, nn.Module):
            self.function.load_state_dict(state["module"])

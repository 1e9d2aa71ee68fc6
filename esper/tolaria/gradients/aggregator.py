"""The interface of an aggregator of gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from esper.tolaria.gradients.tasks import Tasks
from esper.tolaria.loss.objectives import sum_losses


@dataclass(frozen=True, slots=True)
class Combined:
    """The aggregated gradients.

    Attributes:
        gradients: one for each parameter, None if no task reaches it.
        weights: those of the tasks, if the aggregator has any.
        projected: whether PCGrad changed a gradient, a bool tensor on the device.
    """

    gradients: Sequence[Tensor | None]
    weights: Tensor | Sequence[float | Tensor] | None = None
    projected: Tensor | None = None


class Aggregator(ABC):
    """Combines the gradients of tasks. Its state is saved with the run.

    With `by_share` a micro-batch's gradient is multiplied by its share of the step's mean, so that the sum is
    the gradient of one big batch; else it is that of the micro-batch's own mean.
    """

    by_share = True

    @abstractmethod
    def combine(self, tasks: Tasks) -> Combined:
        """Aggregate the gradients of at least two tasks, without changing them."""

    def combine_losses(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The reported loss of several objectives: their sum."""
        return sum_losses(losses)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have no state
        """Restore a saved state."""

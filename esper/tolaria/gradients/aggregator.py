"""What it takes to make one gradient of several tasks'."""

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
    """One gradient a parameter, None where no task reaches it.

    `weights` are those of the tasks, where there are any; `projected` says, on the device, whether PCGrad
    took anything away.
    """

    gradients: Sequence[Tensor | None]
    weights: Tensor | Sequence[float | Tensor] | None = None
    projected: Tensor | None = None


class Aggregator(ABC):
    """Combines the gradients of tasks. Its state is saved with the run's.

    With `by_share` a micro-batch's gradient comes multiplied by its share of the window's mean, so that
    the plain sum is the gradient of one big batch; else it is that of the micro-batch's own mean.
    """

    by_share = True

    @abstractmethod
    def combine(self, tasks: Tasks) -> Combined:
        """One gradient of several; there are at least two tasks. Does not change what it is given."""

    def combine_losses(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The one number that stands for several objectives: their sum."""
        return sum_losses(losses)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have no state
        """Take up a saved state."""

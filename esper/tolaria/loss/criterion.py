"""A loss function with the divisor of its mean and the definition of accuracy; `examine` determines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from esper.tolaria.loss.accuracy import Accuracy, accuracy_for
from esper.tolaria.loss.divisors import BySamples, Divisor, known_divisor, torch_loss
from esper.tolaria.loss.objectives import Losses, LossFunction


class Metric(Protocol):
    """A metric over a whole data set with the interface of torchmetrics; `compute` returns one number.

    Higher is better unless an attribute `higher_is_better` is False.
    """

    def update(self, output: Any, targets: Any) -> Any: ...

    def compute(self) -> Any: ...

    def reset(self) -> Any: ...


class Criterion:
    """A loss function, called as `criterion(output, targets)`, with its properties.

    Args:
        loss: the loss function.
        divisor: the rule for what its mean is divided by.
        batch_dependent: no divisor makes a batch's loss the mean of its samples' (a contrastive loss).
        accuracy: the definition of accuracy.
        metric: a user's metric, which replaces accuracy on held-out data.
        notes: messages for the user.
    """

    def __init__(
        self,
        loss: LossFunction,
        divisor: Divisor | None = None,
        *,
        batch_dependent: bool = False,
        accuracy: Accuracy | None = None,
        metric: Metric | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.loss = loss
        self.divisor = divisor or known_divisor(loss) or BySamples()
        self.batch_dependent = batch_dependent
        self.accuracy = accuracy or accuracy_for(loss)
        self.metric = metric
        self.notes = tuple(notes)
        # torch's losses have no NaN gradient if all labels are ignored, unless they have class weights
        self.gradient_may_break = torch_loss(loss) is None or getattr(loss, "weight", None) is not None

    def __call__(self, output: Any, targets: Any) -> Losses:
        return self.loss(output, targets)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger accuracy or metric is better."""
        return getattr(self.metric, "higher_is_better", None) is not False


def as_criterion(loss: LossFunction) -> Criterion:
    """The loss itself if it is a `Criterion`, else one with the properties known without calling it."""
    return loss if isinstance(loss, Criterion) else Criterion(loss)

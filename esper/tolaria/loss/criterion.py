"""A loss with what is known of its mean and of its answers; see `examine` for how that is found out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from esper.tolaria.loss.accuracy import Accuracy, accuracy_for
from esper.tolaria.loss.divisors import BySamples, Divisor, known_divisor, torch_loss
from esper.tolaria.loss.objectives import Losses, LossFunction


class Metric(Protocol):
    """A measure of whole data sets, as torchmetrics has them; `compute` returns one number.

    Higher is better unless an attribute `higher_is_better` is False.
    """

    def update(self, output: Any, targets: Any) -> Any: ...

    def compute(self) -> Any: ...

    def reset(self) -> Any: ...


class Criterion:
    """Called like its loss.

    divisor: what its mean is divided by.
    batch_dependent: no divisor makes a batch's loss the mean of its samples' (a contrastive loss).
    accuracy: what counts as a right answer.
    metric: the user's own measure, which replaces accuracy on held-out data.
    notes: what the user should know about it.
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
        # torch's own has no gradient of NaN where all labels are ignored, unless weights come in
        self.gradient_may_break = torch_loss(loss) is None or getattr(loss, "weight", None) is not None

    def __call__(self, output: Any, targets: Any) -> Losses:
        return self.loss(output, targets)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger accuracy or metric is the better one."""
        return getattr(self.metric, "higher_is_better", None) is not False


def as_criterion(loss: LossFunction) -> Criterion:
    """A loss as it is where it is a criterion, else with what can be known without trying it."""
    return loss if isinstance(loss, Criterion) else Criterion(loss)

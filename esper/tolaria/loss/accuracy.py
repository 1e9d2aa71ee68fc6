"""The share of right answers, where a loss and the shapes of its arguments give it a meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from esper.tolaria.loss.divisors import ELEMENTWISE, IGNORED_LABEL, setting, torch_loss
from esper.tolaria.loss.objectives import LossFunction

# From which output on a binary loss's answer is yes: a logit's, and a probability's.
LOGIT, PROBABILITY = 0.0, 0.5
_LOGITS = ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")


def scores_of_classes(output: Any, targets: Any) -> bool:
    """Whether these are scores of several classes (N, C, d1, ...) and class numbers (N, d1, ...)."""
    return (
        isinstance(output, Tensor)
        and isinstance(targets, Tensor)
        and output.dim() >= 2
        and output.shape[1] > 1
        and output.shape[:1] + output.shape[2:] == targets.shape
        and not targets.is_floating_point()
    )


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Counts right answers in a batch.

    With `classes` the largest of several scores is the answer, a pixel or a token each for itself; labels
    equal to `ignore_index` are left out. With a `threshold` each element of an output that has the targets'
    shape is an answer: yes above it; of several labels each one counts (not only samples with all right).
    """

    classes: bool = True
    threshold: float | None = None
    ignore_index: int | None = None

    def count(self, output: Any, targets: Any) -> tuple[Tensor, int | Tensor] | None:
        """Right answers, and how many answers there are; None where there is no accuracy. No wait."""
        if self.classes and scores_of_classes(output, targets):
            right = output.detach().argmax(dim=1) == targets
            if self.ignore_index is None:
                return right.sum(), targets.numel()
            counted = targets != self.ignore_index
            return (right & counted).sum(), counted.sum()
        if self.threshold is None or not (isinstance(output, Tensor) and isinstance(targets, Tensor)):
            return None
        if output.shape != targets.shape:
            return None
        right = (output.detach() > self.threshold) == (targets > PROBABILITY)
        return right.sum(), targets.numel()


def accuracy_for(
    loss: LossFunction, kind: str = "auto", *, classes: bool = True, ignorable: bool = True
) -> Accuracy:
    """What counts as a right answer under a loss; `kind` as in `optimization.metric`.

    `classes` says whether a loss that is not one of torch's judges scores of classes.
    """
    name = torch_loss(loss)
    ignored = setting(loss, "ignore_index", IGNORED_LABEL) if ignorable else None
    if kind == "accuracy":
        return Accuracy(ignore_index=ignored)
    threshold = PROBABILITY if name == "binary_cross_entropy" else LOGIT if name in _LOGITS else None
    if kind == "binary_accuracy":
        return Accuracy(classes=False, threshold=LOGIT if threshold is None else threshold)
    if kind == "none":
        return Accuracy(classes=False)
    scored = classes if name is None else name not in ELEMENTWISE
    return Accuracy(classes=scored, threshold=threshold, ignore_index=ignored)

"""Accuracy, if the loss and the shapes of its arguments define it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from esper.tolaria.loss.divisors import ELEMENTWISE, IGNORED_LABEL, setting, torch_loss
from esper.tolaria.loss.objectives import LossFunction

# Above this output the prediction of a binary loss is positive: for logits, and for probabilities.
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
    """Counts correct predictions in a batch.

    Args:
        classes: the prediction is the class with the largest score, for each pixel or token.
        threshold: each element of an output of the targets' shape is a prediction, positive above this;
            with several labels per sample each label counts.
        ignore_index: labels that are not counted.
    """

    classes: bool = True
    threshold: float | None = None
    ignore_index: int | None = None

    def count(self, output: Any, targets: Any) -> tuple[Tensor, int | Tensor] | None:
        """The number of correct predictions and of all, or None if accuracy is not defined.

        Does not synchronise with the device.
        """
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
    """The definition of accuracy for a loss.

    Args:
        loss: the loss function.
        kind: as in `optimization.metric`.
        classes: whether a loss that is not one of torch's takes scores of classes.
        ignorable: whether the data may contain the label that the loss ignores.
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

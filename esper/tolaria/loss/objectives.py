"""The value of a loss: one number, or several objectives by name.

A loss whose mean is not over samples may have a method `divisor(targets)` that returns what it is divided by,
a number or a tensor of one value, for example `(targets != self.padding).sum()`. It gets the targets only,
because the weights of the micro-batches of a step must be known before the first backward pass. torch's
losses need no such method, nor do those whose rule `divisor_search` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from esper.config.messages import error_message
from esper.errors import ConfigError

# scalars, each the mean over its batch
Losses = Tensor | Mapping[str, Tensor]
LossFunction = Callable[[Any, Any], Losses]
CombineLosses = Callable[[Mapping[str, Tensor]], Tensor]


def compute_loss(loss: LossFunction, output: Any, targets: Any) -> Losses:
    """The losses of a batch: a scalar tensor, or a new dict of scalars by objective.

    Raises:
        ConfigError: an objective has no name or is not a scalar.
    """
    losses = loss(output, targets)
    if not isinstance(losses, Mapping):
        return _without_dimensions(losses)
    wrong = {name: value for name, value in losses.items() if not isinstance(name, str) or not _scalar(value)}
    if wrong or not losses:
        given = {name: _describe(value) for name, value in wrong.items()}
        expected = "one number, or a scalar tensor for each objective's name"
        raise ConfigError(error_message("optimization.loss_function", given, expected))
    return dict(losses)


def _without_dimensions(loss: Tensor) -> Tensor:
    """A tensor of one value as a scalar; anything else unchanged."""
    return loss.reshape(()) if isinstance(loss, Tensor) and loss.dim() and loss.numel() == 1 else loss


def sum_losses(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of several objectives."""
    first, *others = losses.values()
    for other in others:
        first = first + other
    return first


def total_loss(losses: Losses, combine_losses: CombineLosses = sum_losses) -> Tensor:
    """The total of a batch's losses: a single one unchanged, several combined by `combine_losses`."""
    return losses if isinstance(losses, Tensor) else combine_losses(losses)


def scaled(loss: Tensor, share: float | Tensor) -> Tensor:
    """A loss times a share, which may be on another device, without a synchronisation."""
    if isinstance(share, Tensor):
        return loss * share.to(loss.device, loss.dtype, non_blocking=True)
    return loss if share == 1 else loss * share


def from_model(output: Any, targets: Any) -> Losses:
    """The loss `from_model`: the output itself, for models that return their losses, one or several by name.

    Raises:
        ConfigError: the output is something else.
    """
    if isinstance(output, Mapping) or _scalar(output):
        return output
    expected = "a loss of this model's output: from_model is for models that return their losses, "
    expected += f"in evaluation mode, too (its output is {_describe(output)})"
    raise ConfigError(error_message("optimization.loss_function", "from_model", expected))


def _scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

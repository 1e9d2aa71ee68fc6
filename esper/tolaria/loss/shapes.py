"""Checks that a loss compares output and targets element by element, without broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from esper.config.messages import error_message
from esper.tolaria.loss.divisors import ELEMENTWISE, torch_loss
from esper.tolaria.loss.objectives import LossFunction

_KEY = "optimization.loss_function"


def shape_problems(loss: LossFunction, name: str, output: Any, targets: Any) -> list[str]:
    """A message if a loss would broadcast its arguments: (N, 1) and (N) compare all samples with all.

    torch's elementwise losses need equal shapes; a user's loss is compared with its value for equal shapes.
    Call it under `torch.no_grad`.
    """
    if not (isinstance(output, Tensor) and isinstance(targets, Tensor)) or output.shape == targets.shape:
        return []
    known = torch_loss(loss)
    if known is None and not _broadcasts(loss, output, targets):
        return []
    if known is not None and known not in ELEMENTWISE:
        return []
    return [error_message(_KEY, name, _expected(output, targets))]


def _broadcasts(loss: Callable[[Any, Any], Any], output: Tensor, targets: Tensor) -> bool:
    """Whether a user's loss compares all samples with all because of a dimension of 1.

    Then it depends on the whole batch, and is a mean over samples once the shapes are equal. A loss that
    aligns the shapes itself is such a mean already, and one that compares samples on purpose never is.
    """
    if _squeezed(output) != _squeezed(targets) or output.shape[:1] != targets.shape[:1] or output.numel() < 2:
        return False
    # sorted targets, and outputs correlated with them: then comparing all with all differs in each half
    order = targets.flatten().argsort()
    output, targets = output[order], targets[order]
    output = output + targets.reshape(output.shape)
    if _is_mean(loss, output, targets):
        return False
    return _is_mean(loss, output, targets.reshape(output.shape)) or _is_mean(
        loss, output.reshape(targets.shape), targets
    )


def _is_mean(loss: Callable[[Any, Any], Any], output: Tensor, targets: Tensor) -> bool:
    """Whether the loss of all samples is the mean, or the sum, of the losses of two halves."""
    n, half = len(output), len(output) // 2
    try:
        whole = loss(output, targets)
        first, second = loss(output[:half], targets[:half]), loss(output[half:], targets[half:])
        mean = (half * first + (n - half) * second) / n
        return any(torch.allclose(whole, made, rtol=1e-3) for made in (mean, first + second))
    except Exception:  # noqa: BLE001 - the loss may not accept these shapes
        return False


def _squeezed(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _expected(output: Tensor, targets: Tensor) -> str:
    given = f"{tuple(output.shape)} and {tuple(targets.shape)}"
    with suppress(RuntimeError):  # the shapes cannot be broadcast
        wide = torch.broadcast_shapes(output.shape, targets.shape)
        given += f", which would be broadcast to {tuple(wide)}"
    expected = f"an output and targets of one shape (they have {given}): "
    if _squeezed(output) == _squeezed(targets):
        wanted = "squeeze(-1)" if output.dim() > targets.dim() else "unsqueeze(-1)"
        return expected + f"end the model with {wanted}, or give targets of shape {tuple(output.shape)}"
    return expected + f"give targets of shape {tuple(output.shape)}, or another loss"

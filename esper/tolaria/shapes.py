"""Whether an output and its targets have shapes that a loss compares one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from esper.config.problems import problem
from esper.tolaria.divisors import ELEMENTWISE, torch_loss
from esper.tolaria.losses import LossFunction

_KEY = "optimization.loss_function"


def shape_problems(loss: LossFunction, name: str, output: Any, targets: Any) -> list[str]:
    """A sentence where a loss would broadcast its arguments: (N, 1) against (N) compares all with all.

    torch's elementwise losses take equal shapes only; any other loss is tried with the targets in the
    output's shape, and where it then comes to another value, it broadcasts. Call without gradients.
    """
    if not (isinstance(output, Tensor) and isinstance(targets, Tensor)) or output.shape == targets.shape:
        return []
    known = torch_loss(loss)
    if known is None and not _broadcasts(loss, output, targets):
        return []
    if known is not None and known not in ELEMENTWISE:
        return []
    return [problem(_KEY, name, _expected(output, targets))]


def _broadcasts(loss: Callable[[Any, Any], Any], output: Tensor, targets: Tensor) -> bool:
    """Whether a loss of the user's own takes shapes that differ by dimensions of 1, and gets them wrong."""
    if _squeezed(output) != _squeezed(targets) or output.numel() < 2:
        return False
    given, aligned = loss(output, targets), loss(output, targets.reshape(output.shape))
    if not (isinstance(given, Tensor) and isinstance(aligned, Tensor) and given.shape == aligned.shape):
        return False
    return not torch.allclose(given, aligned, rtol=1e-4, equal_nan=True)


def _squeezed(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _expected(output: Tensor, targets: Tensor) -> str:
    given = f"{tuple(output.shape)} and {tuple(targets.shape)}"
    try:
        wide = torch.broadcast_shapes(output.shape, targets.shape)
        given += f", which would be broadcast to {tuple(wide)}"
    except RuntimeError:
        pass
    expected = f"an output and targets of one shape (they have {given}): "
    if _squeezed(output) == _squeezed(targets):
        wanted = "squeeze(-1)" if output.dim() > targets.dim() else "unsqueeze(-1)"
        return expected + f"end the model with {wanted}, or give targets of shape {tuple(output.shape)}"
    return expected + f"give targets of shape {tuple(output.shape)}, or another loss"

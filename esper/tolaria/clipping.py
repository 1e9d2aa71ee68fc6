"""Gradient clipping by norm (Pascanu, Mikolov and Bengio, 2013): over all, or each group on its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CLIP_SCOPES = ("all", "group")


def clip(groups: Sequence[Sequence[nn.Parameter]], max_norm: float, scope: str = "all") -> Tensor:
    """Scale gradients down to a norm of at most `max_norm`, in place; returns the norm of all before that.

    With "all" the groups are scaled by one factor, which keeps the direction of the whole gradient; with
    "group" each by its own, so that a young seed with large gradients does not shrink the host's step.
    Nothing waits for the device.
    """
    if scope == "all":
        return nn.utils.clip_grad_norm_([p for group in groups for p in group], max_norm)
    norms = [nn.utils.clip_grad_norm_(group, max_norm) for group in groups if _has_gradient(group)]
    return nn.utils.get_total_norm(norms) if norms else torch.zeros(())


def gradient_norm(params: Sequence[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, taken in every step; nothing waits for the device.

    As `torch.nn.utils.get_total_norm`, at two thirds of its price where all lie on one device.
    """
    grads = [p.grad for p in params if p.grad is not None]
    if not grads or any(grad.device != grads[0].device for grad in grads):
        return nn.utils.get_total_norm(grads)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))


def _has_gradient(group: Sequence[nn.Parameter]) -> bool:
    return any(p.grad is not None for p in group)

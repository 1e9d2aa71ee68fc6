"""Isolated training: a seed in TRAINING learns without changing the host's outputs or gradients.

The host's backward pass gives g, the gradient of the loss with respect to the layer's output h. The
seed learns to output a step of bounded size against it: for its output d it minimises

    mean((d - t)^2) / mean(t^2)   with   t = -r * rms(h) * g / rms(g),

the relative squared error to the normalised functional gradient (the direction of gradient boosting:
Friedman, 2001). The objective starts at 1 for d = 0, is never below 0, and its least value is one minus
the share of the functional gradient that the seed can explain. A straight-through term alone would be
linear in d and has no minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from esper.kasmina.seed import OBJECTIVE_FIRST, OBJECTIVE_NOW, Seed
from esper.kasmina.tap import ActivationTap
from esper.utils.device_and_rng import seeded_rng

# Size of the target step relative to the layer's output: large enough to matter, small beside the output.
STEP_RATIO = 0.1


def learn(seed: Seed, step: int) -> None:
    """Add the gradients of the seed's own objective, averaged over its taps, and clear the taps.

    The global generators are restored; what the seed draws depends only on its own seed and the step. A tap
    whose gradient overflowed (fp16) is ignored.

    Args:
        seed: an isolated seed.
        step: optimizer steps done.
    """
    taps = [tap for tap in seed.taps if tap.gradient is not None]
    seed.taps.clear()
    weight = next((p for p in seed.parameters() if p.requires_grad), None)
    if not taps or weight is None:
        return
    device = taps[0].source.device
    with seeded_rng(seed.rng_seed + step, device), torch.autocast(device.type, enabled=False):
        errors, finite = zip(*(_error(seed, tap, weight.dtype) for tap in taps), strict=True)
    valid = torch.stack(finite).sum()
    objective = torch.stack(errors).sum() / valid.clamp(min=1)
    objective.backward()
    _update_objective(seed, objective.detach(), valid > 0)


def _error(seed: Seed, tap: ActivationTap, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the relative squared error on one tap (0 for a non-finite gradient), and if it is finite."""
    assert tap.gradient is not None
    source = tap.source.to(dtype)
    delta = seed.delta(source, source).float()
    if seed.gate is not None:
        delta = delta * seed.gate.float()
    g = tap.gradient.float()
    # largest value first: squares of small gradients vanish in float32
    g = g / g.abs().amax().clamp(min=1e-37)
    rms = g.square().mean().sqrt()
    finite = torch.isfinite(rms)
    size = STEP_RATIO * tap.h_rms + 1e-12
    target = torch.where(finite, -size * g / (rms + 1e-30), 0.0)
    error = (delta - target).square().mean() / size.square()
    return torch.where(finite, error, torch.zeros_like(error)), finite


def _update_objective(seed: Seed, objective: Tensor, valid: Tensor) -> None:
    first, now = seed.stats[OBJECTIVE_FIRST], seed.stats[OBJECTIVE_NOW]
    started = first > 0
    smoothed = torch.where(started, 0.95 * now + 0.05 * objective, objective)
    seed.stats[OBJECTIVE_FIRST] = torch.where(started, first, objective)
    seed.stats[OBJECTIVE_NOW] = torch.where(valid, smoothed, now)


def guard_gradients(seed: Seed, max_norm: float | None) -> None:
    """Clip the seed's gradients, and zero them all where one is not finite; does not wait for the device."""
    grads = [p.grad for p in seed.parameters() if p.grad is not None]
    if not grads:
        return
    norm = torch.nn.utils.get_total_norm(grads)
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(seed.parameters(), max_norm, norm)
    finite = torch.isfinite(norm)
    for grad in grads:
        grad.copy_(torch.where(finite, grad, torch.zeros_like(grad)))

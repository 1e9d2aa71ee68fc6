"""Blending a seed's output into its layer's output: alpha schedules and blend modes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esper.errors import GrowthError

# Steepness of the sigmoid schedule: at its ends the raw curve is within 0.25 % of 0 and 1.
_SIGMOID_STEEPNESS = 12.0


def _sigmoid(t: float) -> float:
    half = _SIGMOID_STEEPNESS / 2
    return (math.tanh(half * (t - 0.5)) / math.tanh(half / 2) + 1) / 2


_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "sigmoid": _sigmoid,
}
BLEND_SCHEDULES = tuple(_SCHEDULES)
BLEND_MODES = ("additive", "gated")


def alpha_at(schedule: str, step: int, total: int, start: float = 0.0, end: float = 1.0) -> float:
    """Return alpha after `step` of `total` steps between `start` and `end`.

    Exactly `start` up to step 0 and exactly `end` from step `total` on; monotone and within both in between.

    Args:
        schedule: one of `BLEND_SCHEDULES`.
        step: steps done.
        total: steps of the blend; 0 means at once.
        start, end: values in [0, 1].

    Raises:
        GrowthError: the schedule is unknown, `total` is negative, or `start` or `end` is outside [0, 1].
    """
    curve = _SCHEDULES[_check_name("blend schedule", schedule, BLEND_SCHEDULES)]
    if total < 0:
        raise GrowthError(f"a blend cannot take {total} steps; give 0 (at once) or more")
    if not (0.0 <= start <= 1.0 and 0.0 <= end <= 1.0):
        raise GrowthError(f"a blend from {start} to {end} leaves [0, 1]")
    if step >= total:
        return end
    if step <= 0:
        return start
    value = start + (end - start) * curve(step / total)
    return min(max(value, min(start, end)), max(start, end))


class Blend:
    """Alpha of one seed during blending: from 0 to 1 in a number of steps, and back if reversed.

    Args:
        schedule: one of `BLEND_SCHEDULES`.
    """

    def __init__(self, schedule: str = "linear") -> None:
        self._schedule = _check_name("blend schedule", schedule, BLEND_SCHEDULES)
        self._step, self._total = 0, 0
        self._started, self._reversed = False, False

    def start(self, total_steps: int) -> None:
        """Start at alpha 0 (at 1 where `total_steps` is 0); alpha is 1 after `total_steps` ticks."""
        if total_steps < 0:
            raise GrowthError(f"a blend cannot take {total_steps} steps; give 0 (at once) or more")
        self._step, self._total = 0, total_steps
        self._started, self._reversed = True, False

    def tick(self) -> float:
        """Advance by one optimizer step and return the new alpha."""
        if not self._started:
            raise GrowthError("the blend has not been started: call start(total_steps) first")
        self._step += -1 if self._reversed else 1
        self._step = min(max(self._step, 0), self._total)
        return self.alpha

    def reverse(self) -> None:
        """Reverse: alpha goes back by one step per tick, to exactly 0."""
        self._reversed = True

    @property
    def alpha(self) -> float:
        """The current weight, in [0, 1]."""
        if not self._started or (self._reversed and self._step == 0):
            return 0.0
        return alpha_at(self._schedule, self._step, self._total)

    @property
    def reversed(self) -> bool:
        return self._reversed

    @property
    def done(self) -> bool:
        """Whether the blend has ended: alpha 1, or 0 where it was reversed."""
        return self._started and self._step == (0 if self._reversed else self._total)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        return {
            "schedule": self._schedule,
            "step": self._step,
            "total": self._total,
            "started": self._started,
            "reversed": self._reversed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved blend, including the schedule that it was started with."""
        self._schedule = _check_name("blend schedule", state["schedule"], BLEND_SCHEDULES)
        self._step, self._total = int(state["step"]), int(state["total"])
        self._started, self._reversed = bool(state["started"]), bool(state["reversed"])


def make_gate(layout: str, channels: int) -> Tensor:
    """Return the initial per-channel gate for mode "gated": ones that broadcast over `layout`."""
    trailing = {"features": 0, "conv1d": 1, "conv2d": 2}[layout]
    return torch.ones(channels, *(1,) * trailing)


def join(mode: str, h: Tensor, delta: Tensor, alpha: Tensor, gate: Tensor | None = None) -> Tensor:
    """Blend a seed's output into the layer's output.

    Args:
        mode: "additive" returns h + alpha * delta, "gated" returns h + alpha * gate * delta.
        h: output of the layer.
        delta: output of the seed, of the same shape.
        alpha: a 0-dim tensor, so that a change neither waits for the device nor recompiles.
        gate: per-channel factors for "gated".

    Returns:
        A tensor of the shape and dtype of `h`, also under autocast.

    Raises:
        GrowthError: the mode is unknown, or "gated" has no gate.
    """
    if mode == "gated":
        if gate is None:
            raise GrowthError("blend mode 'gated' needs a gate; make one with make_gate")
        delta = gate * delta
    elif mode != "additive":
        _check_name("blend mode", mode, BLEND_MODES)
    return h + (alpha * delta).to(h.dtype)


def _check_name(what: str, name: str, names: Sequence[str]) -> str:
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise GrowthError(f"unknown {what} {name!r}.{hint} There are: {', '.join(names)}.")

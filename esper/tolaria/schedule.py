"""Learning rates: a factor for every optimiser step, and a warm-up for parameters that arrive late."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from esper.errors import ConfigError

Factor = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Horizon:
    """Length of the run in optimiser steps, and the steps of one epoch."""

    total_steps: int
    steps_per_epoch: int


def constant(horizon: Horizon) -> Factor:
    """No change."""
    return lambda step: 1.0


def cosine(horizon: Horizon, min_factor: float = 0.0, period_epochs: float | None = None) -> Factor:
    """Half a cosine from 1 to `min_factor` over the period (the whole run unless given in epochs).

    Past its period the factor stays at `min_factor` (Loshchilov and Hutter, 2017, without restarts).
    """
    _check("min_factor", min_factor, 0.0, 1.0)
    if period_epochs is not None:
        _check("period_epochs", period_epochs, 0.0, math.inf)
    period = horizon.total_steps if period_epochs is None else period_epochs * horizon.steps_per_epoch

    def factor(step: int) -> float:
        x = min(step / max(period, 1), 1.0)
        return min_factor + (1.0 - min_factor) * 0.5 * (1.0 + math.cos(math.pi * x))

    return factor


def step(horizon: Horizon, step_size_epochs: int = 30, gamma: float = 0.1) -> Factor:
    """Times `gamma` after every `step_size_epochs` epochs."""
    _check("step_size_epochs", step_size_epochs, 1, math.inf)
    _check("gamma", gamma, 0.0, 1.0)
    every = step_size_epochs * horizon.steps_per_epoch
    return lambda at: gamma ** (at // max(every, 1))


def exponential(horizon: Horizon, gamma: float = 0.95) -> Factor:
    """Times `gamma` after every epoch."""
    _check("gamma", gamma, 0.0, 1.0)
    return lambda at: gamma ** (at // max(horizon.steps_per_epoch, 1))


def with_warmup(factor: Factor, warmup_steps: int, floor: float = 0.0) -> Factor:
    """Times a line from `floor` to 1 over the first `warmup_steps` steps."""
    _check("warmup_steps", warmup_steps, 0, math.inf)
    _check("warmup_floor", floor, 0.0, 1.0)

    def warmed(at: int) -> float:
        return factor(at) * ramp(at, warmup_steps, floor)

    return warmed


def ramp(at: int, steps: int, floor: float = 0.0) -> float:
    """A line from `floor` to 1: the first step already gets its share, so that no step is lost."""
    if at + 1 >= steps:
        return 1.0
    return floor + (1.0 - floor) * (at + 1) / steps


class LearningRate:
    """Sets the rate of every group of an optimiser before each step.

    A group's rate is its `base_lr` times the policy's factor, times, for groups with `born_step` and
    `warmup_steps`, a line from 0 to 1 over their own first steps.
    """

    def __init__(self, factor: Factor) -> None:
        self.factor = factor

    def apply(self, optimizer: torch.optim.Optimizer, at: int) -> None:
        """Set all rates for step `at` (steps done so far)."""
        common = self.factor(at)
        for group in optimizer.param_groups:
            age = at - group.get("born_step", 0)
            group["lr"] = group["base_lr"] * common * ramp(age, group.get("warmup_steps", 0))


# What makes the schedule of a run once its length is known.
ScheduleFactory = Callable[[Horizon], LearningRate]


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (isinstance(value, int | float) and low <= value <= high):
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(
            f"optimization.scheduler_params.{name}: given {value!r}, expected a number {bounds}"
        )

"""Learning rate schedules: a factor for every optimiser step, and a warm-up for parameters added later.

Names end in their unit: `warmup_steps`, `period_epochs`. A step skipped by fp16 counts as a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from esper.errors import CheckpointError, ConfigError

Factor = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Horizon:
    """Length of the run in optimiser steps, and the steps of one epoch."""

    total_steps: int
    steps_per_epoch: int

    def __str__(self) -> str:
        return f"{self.total_steps} steps, {self.steps_per_epoch} an epoch"


def constant(horizon: Horizon) -> Factor:
    """A constant factor of 1."""
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
    """A factor that is multiplied by `gamma` after every `step_size_epochs` epochs."""
    _check("step_size_epochs", step_size_epochs, 1, math.inf)
    _check("gamma", gamma, 0.0, 1.0)
    every = step_size_epochs * horizon.steps_per_epoch
    return lambda at: gamma ** (at // max(every, 1))


def exponential(horizon: Horizon, gamma: float = 0.95) -> Factor:
    """A factor that is multiplied by `gamma` after every epoch."""
    _check("gamma", gamma, 0.0, 1.0)
    return lambda at: gamma ** (at // max(horizon.steps_per_epoch, 1))


def with_warmup(factor: Factor, warmup_steps: int, floor: float = 0.0) -> Factor:
    """`factor` times a linear warm-up from `floor` to 1 over the first `warmup_steps` steps."""
    _check("warmup_steps", warmup_steps, 0, math.inf)
    _check("warmup_floor", floor, 0.0, 1.0)

    def warmed(at: int) -> float:
        return factor(at) * ramp(at, warmup_steps, floor)

    return warmed


def ramp(at: int, steps: int, floor: float = 0.0) -> float:
    """A linear ramp from `floor` to 1; the first step already has `1 / steps`, so that it is not wasted."""
    if at + 1 >= steps:
        return 1.0
    return floor + (1.0 - floor) * (at + 1) / steps


class LearningRate:
    """Sets the learning rate of every parameter group before each step.

    The rate of a group is its `base_lr` times the factor of the schedule times `scale`; groups with
    `born_step` and `warmup_steps` have a linear warm-up over their own first steps. The rate is a function of
    the step number, so that it is right after a resume or a change of topology. `scale` is 1 until `reduce`
    is called, and is saved.

    Args:
        factor: the schedule, a function of the step.
        horizon: the length of the run that the schedule was made for.
    """

    def __init__(self, factor: Factor, horizon: Horizon | None = None) -> None:
        self.factor = factor
        self.horizon = horizon
        self.scale = 1.0
        self.extension = ""

    def apply(self, optimizer: torch.optim.Optimizer, at: int) -> None:
        """Set all rates for step `at` (the number of steps done).

        Raises:
            ConfigError: a user's schedule returns no finite factor of at least 0.
        """
        common = self.factor(at)
        if not 0.0 <= common < math.inf:
            raise ConfigError(
                f"optimization.scheduler: its factor at step {at} is {common!r}, expected a finite number "
                "of at least 0"
            )
        common *= self.scale
        for group in optimizer.param_groups:
            age = at - group.get("born_step", 0)
            group["lr"] = group["base_lr"] * common * ramp(age, group.get("warmup_steps", 0))

    def apply_isolated(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the rates of a seed in isolation: constant except for `scale`, independent of the schedule."""
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.scale

    def reduce(self, factor: float) -> None:
        """Multiply all rates by `factor`, above 0 and at most 1, from the next step on."""
        if not 0.0 < factor <= 1.0:
            raise ValueError(
                f"the learning rates cannot be reduced by {factor!r}; expected a number above 0 and at most 1"
            )
        self.scale *= factor

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The scale, and the horizon that the schedule was made for."""
        return {"scale": self.scale, "horizon": None if self.horizon is None else asdict(self.horizon)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scale. If the user has changed the length of the run, the new horizon applies.

        `extension` is then a message about it: from this step on the schedule is that of the new horizon;
        `scheduler_params.period_epochs` can keep the period of a cosine.
        """
        scale = float(state["scale"])
        if not 0.0 < scale <= 1.0:
            raise CheckpointError(
                f"the saved schedule has scale {scale!r}, expected a number above 0, at most 1"
            )
        saved = None if state["horizon"] is None else Horizon(**state["horizon"])
        self.scale, self.extension = scale, ""
        if None not in (saved, self.horizon) and saved != self.horizon:
            self.extension = (
                f"the learning rate was planned for {saved}; from here on it is for {self.horizon}"
            )


# Makes the schedule of a run once its length is known.
ScheduleFactory = Callable[[Horizon], LearningRate]


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (isinstance(value, int | float) and low <= value <= high):
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(
            f"optimization.scheduler_params.{name}: given {value!r}, expected a number {bounds}"
        )

"""Counters of the loop, the best score so far, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(slots=True)
class Progress:
    """The loop's counters. `epoch` counts finished epochs, `batch` batches of the current one."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    samples_seen: int = 0
    param_steps: int = 0
    # None if a part of it could not be counted
    train_flops: float | None = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    stopped_by: str = ""
    # a round of decisions was begun after the last step and interrupted
    round_due: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def load(self, data: Mapping[str, Any]) -> None:
        for field in fields(self):
            setattr(self, field.name, data[field.name])


class Best:
    """The best epoch so far: highest validation accuracy, or lowest validation loss if there is no accuracy.

    Without `higher_is_better` (a custom metric) the lowest value is best. A loss that is not finite is never
    best.
    """

    def __init__(self, *, higher_is_better: bool = True) -> None:
        self.sign = 1 if higher_is_better else -1
        self.epoch = -1
        self.loss = math.inf
        self.accuracy: float | None = None

    def update(self, epoch: int, loss: float, accuracy: float | None) -> bool:
        """Compare an epoch with the best. Returns True if it is the best so far."""
        if not math.isfinite(loss):
            return False
        if self._rank(loss, accuracy) <= self._rank(self.loss, self.accuracy):
            return False
        self.epoch, self.loss, self.accuracy = epoch, loss, accuracy
        return True

    def _rank(self, loss: float, accuracy: float | None) -> tuple[float, float]:
        return (-math.inf if accuracy is None else self.sign * accuracy, -loss)

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "accuracy": self.accuracy, "loss": _or_none(self.loss)}

    def load(self, data: Mapping[str, Any]) -> None:
        self.epoch, self.accuracy = data["epoch"], data["accuracy"]
        self.loss = math.inf if data["loss"] is None else data["loss"]


class EarlyStopping:
    """Stops after `patience` epochs in which the validation loss did not fall by `min_delta`; 0 never stops.

    A change of topology restarts the count, as the changed network needs time to train. A loss that is not
    finite is no fall.
    """

    def __init__(self, patience: int, min_delta: float) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.least = math.inf
        self.waited = 0

    def restart(self) -> None:
        """Restart the count after a change of topology."""
        self.waited = 0

    def update(self, loss: float) -> bool:
        """Count an epoch's validation loss. Returns True if the run must stop."""
        if math.isfinite(loss) and loss < self.least - self.min_delta:
            self.least, self.waited = loss, 0
        else:
            self.waited += 1
        return self.over

    @property
    def over(self) -> bool:
        """Whether the run must stop."""
        return 0 < self.patience <= self.waited

    def to_json(self) -> dict[str, Any]:
        return {"least": _or_none(self.least), "waited": self.waited}

    def load(self, data: Mapping[str, Any]) -> None:
        self.least = math.inf if data["least"] is None else data["least"]
        self.waited = data["waited"]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""What Tamiyo asks for and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class CommandKind(StrEnum):
    GERMINATE = "germinate"
    CULL = "cull"
    FOSSILIZE = "fossilize"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class AdaptationCommand:
    """One change that a policy asks for.

    `confidence` and `urgency` lie in [0, 1]. `blueprint`, `placement` ("series" or "parallel") and
    `options` (arguments of the blueprint) are read for GERMINATE only. `evidence` holds the measured
    numbers that `reason` speaks of. `shortlist` holds germinations that may do as well: whoever can look
    ahead carries out the best of these and the command itself. `pause` asks that no seed be germinated
    before `pause_epochs` are over.
    """

    command_id: str
    kind: CommandKind
    confidence: float
    urgency: float
    reason: str
    layer: str = ""
    seed_index: int = 0
    blueprint: str = ""
    placement: str = "series"
    options: Mapping[str, Any] = field(default_factory=dict)
    pause_epochs: int = 0
    evidence: Mapping[str, float] = field(default_factory=dict)
    shortlist: tuple[AdaptationCommand, ...] = ()

    def __post_init__(self) -> None:
        for name in ("confidence", "urgency"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1]")


class Refusal(StrEnum):
    """Why the control loop or Kasmina did not carry a command out."""

    CONFIDENCE = "confidence_below_threshold"
    URGENCY = "urgency_below_threshold"
    CAP = "max_adaptations_per_epoch"
    BUDGET = "max_params_ratio"
    COOLDOWN = "adaptation_cooldown"
    PAUSED = "paused"
    CONSERVATIVE = "conservative_mode"
    BREAKER = "breaker_open"
    DUPLICATE = "command_already_applied"
    GATE = "gate_failed"
    INVALID = "invalid_command"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command; `refusal` is None exactly when it was applied."""

    command: AdaptationCommand
    refusal: Refusal | None
    detail: str
    step: int
    epoch: int

    @property
    def applied(self) -> bool:
        return self.refusal is None

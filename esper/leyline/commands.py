"""Commands that a policy sends to the growth controller, and their outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class CommandKind(StrEnum):
    """What a command does: add a seed, remove one, make one permanent, or pause all growth."""

    GERMINATE = "germinate"
    CULL = "cull"
    FOSSILIZE = "fossilize"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class AdaptationCommand:
    """One change that a policy requests.

    Args:
        command_id: unique in a run; a command is applied at most once.
        kind: what to do.
        confidence: how sure the policy is, in [0, 1]; compared with the configured threshold.
        urgency: how little the command can wait, in [0, 1]; compared with the configured threshold.
        reason: one sentence for logs and events.
        layer: name of the target layer; empty for PAUSE.
        seed_index: slot at that layer.
        blueprint: name of the blueprint; read for GERMINATE only.
        placement: "series" or "parallel"; read for GERMINATE only.
        options: keyword arguments of the blueprint; read for GERMINATE only.
        pause_epochs: for PAUSE, how many epochs must end before the next germination.
        evidence: the measured numbers that `reason` refers to.
        shortlist: alternative germinations. With lookahead, the best of these and of the command itself is
            applied; otherwise they are ignored.

    Raises:
        ValueError: `confidence` or `urgency` is outside [0, 1].

    Example:
        >>> command = AdaptationCommand("p-10-1", CommandKind.CULL, 1.0, 1.0, "it hurts", layer="fc1")
        >>> command.seed_index
        0
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
    """Why the growth controller or Kasmina rejected a command."""

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
    """The result of a command.

    Args:
        command: the command.
        refusal: why it was rejected; None exactly when it was applied.
        detail: one sentence for logs and events.
        step: optimizer steps done at the time.
        epoch: epochs finished at the time.

    Example:
        >>> command = AdaptationCommand("p-10-1", CommandKind.CULL, 1.0, 1.0, "it hurts", layer="fc1")
        >>> Outcome(command, Refusal.COOLDOWN, "too early", step=10, epoch=1).applied
        False
    """

    command: AdaptationCommand
    refusal: Refusal | None
    detail: str
    step: int
    epoch: int

    @property
    def applied(self) -> bool:
        """Whether the command was carried out."""
        return self.refusal is None

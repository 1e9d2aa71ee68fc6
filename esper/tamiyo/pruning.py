"""The pruning rule that all policies share, so that they differ only in what they germinate."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.errors import ConfigError
from esper.leyline import (
    ALIVE,
    CommandKind,
    Impact,
    SeedStage,
    SeedState,
    SystemStatePacket,
    impact_evidence,
)
from esper.tamiyo.arguments import count_problems

MODES = ("impact", "keep")

# A pruning decision must not wait behind a germination: these are above any threshold in use.
_URGENCY_FOSSILIZE, _URGENCY_CULL, _URGENCY_TROUBLE = 0.8, 0.9, 1.0


@dataclass(frozen=True, slots=True)
class PruningDecision:
    """FOSSILIZE or CULL for one seed.

    Args:
        kind: FOSSILIZE or CULL.
        seed: the seed.
        confidence: probability that the decision is right, in [0, 1].
        urgency: in [0, 1].
        reason: one sentence.
        evidence: the measured numbers.
    """

    kind: CommandKind
    seed: SeedState
    confidence: float
    urgency: float
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)


class PruningRule:
    """Decides which seeds stay, by validation with the seed on and off.

    Args:
        mode: "impact", or "keep", which keeps every seed that is not broken.
        min_gain: share of the validation loss that a seed must remove to justify its parameters, in [0, 1).
        min_confidence: probability that a decision needs, in [0, 1]; best equal to the growth controller's
            threshold.
        confirmations: epochs in a row that must speak against a seed. More than one helps where impact is
            noisy, and costs an epoch with a harmful seed.
        patience_epochs: epochs of probation after which a seed without a clear effect is culled.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> PruningRule("keep").mode
        'keep'
    """

    def __init__(
        self,
        mode: str = "impact",
        *,
        min_gain: float = 0.005,
        min_confidence: float = 0.7,
        confirmations: int = 1,
        patience_epochs: int = 3,
    ) -> None:
        problems = []
        if mode not in MODES:
            near = difflib.get_close_matches(str(mode), MODES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"judge is {mode!r}; it must be one of {', '.join(MODES)}{hint}")
        if not 0.0 <= min_gain < 1.0:
            problems.append(f"min_gain is {min_gain}; it must be a share of the loss in [0, 1)")
        if not 0.0 <= min_confidence <= 1.0:
            problems.append(f"min_confidence is {min_confidence}; it must lie in [0, 1]")
        problems += count_problems(confirmations=confirmations, patience_epochs=patience_epochs)
        if problems:
            raise ConfigError(problems)
        self.mode = mode
        self.min_gain = min_gain
        # below a half both decisions could hold for the same seed
        self.min_probability = max(min_confidence, 0.5)
        self.confirmations = confirmations
        self.patience_epochs = patience_epochs
        self._against: dict[tuple[str, int], list[int]] = {}

    def decisions(self, packet: SystemStatePacket) -> list[PruningDecision]:
        """Return the decisions about the packet's seeds, broken seeds first, harmful ones next.

        Args:
            packet: the state of the run.

        Returns:
            One decision for each seed about which there is one.
        """
        from_decision = {_key(seed) for seed in packet.seeds if seed.stage is SeedStage.PROBATIONARY}
        self._against = {key: epochs for key, epochs in self._against.items() if key in from_decision}
        found = [decision for seed in packet.seeds if (decision := self._decide(seed, packet)) is not None]
        return sorted(found, key=lambda decision: -decision.urgency)

    def state_dict(self) -> dict[str, Any]:
        """Return, for each seed in probation, the epochs in a row that spoke against it."""
        return {"against": [[layer, index, epochs] for (layer, index), epochs in self._against.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._against = {(layer, index): list(epochs) for layer, index, epochs in state["against"]}

    def _decide(self, seed: SeedState, packet: SystemStatePacket) -> PruningDecision | None:
        if seed.stage not in ALIVE or seed.stage is SeedStage.FOSSILIZED:
            return None
        if problem := find_fault(seed):
            return PruningDecision(CommandKind.CULL, seed, 1.0, _URGENCY_TROUBLE, problem)
        if seed.stage is not SeedStage.PROBATIONARY:
            return None
        if self.mode == "keep":
            reason = "every sound seed is kept, whatever its impact"
            return PruningDecision(CommandKind.FOSSILIZE, seed, 1.0, _URGENCY_FOSSILIZE, reason)
        return None if seed.impact is None else self._by_impact(seed, seed.impact, packet)

    def _by_impact(
        self, seed: SeedState, impact: Impact, packet: SystemStatePacket
    ) -> PruningDecision | None:
        needed = self.min_gain * abs(_last_finite(packet.val_loss_history))
        chance = probability_above(impact, needed)
        evidence = impact_evidence(impact) | {"min_gain": needed, "chance": chance}
        text = _description(impact, needed)
        if chance >= self.min_probability:
            self._against.pop(_key(seed), None)
            reason = f"it helps: {text}"
            return PruningDecision(CommandKind.FOSSILIZE, seed, chance, _URGENCY_FOSSILIZE, reason, evidence)
        if self._confirmed(seed, packet.epoch, against=1.0 - chance >= self.min_probability):
            reason = f"{'it hurts' if impact.loss_gain < 0 else 'no help'}: {text}"
            return PruningDecision(CommandKind.CULL, seed, 1.0 - chance, _URGENCY_CULL, reason, evidence)
        if seed.epochs_in_stage >= self.patience_epochs:
            reason = f"no measurable help in {seed.epochs_in_stage} epochs of probation: {text}"
            # a rule and not an estimate: there is nothing left to wait for
            return PruningDecision(CommandKind.CULL, seed, 1.0, _URGENCY_CULL, reason, evidence)
        return None

    def _confirmed(self, seed: SeedState, epoch: int, *, against: bool) -> bool:
        """Record this epoch's result; returns whether enough epochs in a row spoke against the seed."""
        if not against:
            self._against.pop(_key(seed), None)
            return False
        epochs = self._against.setdefault(_key(seed), [])
        if epoch not in epochs:
            epochs.append(epoch)
        return len(epochs) >= self.confirmations


def _key(seed: SeedState) -> tuple[str, int]:
    return seed.layer, seed.seed_index


def find_fault(seed: SeedState) -> str | None:
    """Return what is broken about a seed, or None for a healthy one.

    Gradient statistics are not checked: under fp16 a skipped step leaves infinite ones in a healthy seed.
    """
    numbers: dict[str, float] = {}
    if seed.health is not None:
        if seed.health.error_count > 0:
            return f"{seed.health.error_count} errors while it ran"
        numbers |= {"activation variance": seed.health.activation_variance}
    if seed.objective is not None:
        numbers |= {"objective": seed.objective}
    if seed.impact is not None:
        numbers |= {"impact": seed.impact.loss_gain, "error of its impact": seed.impact.loss_gain_error}
    broken = [f"its {name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]
    return broken[0] if broken else None


def probability_above(impact: Impact, needed: float) -> float:
    """Return the probability that the true gain is above `needed`, for a normal error of the measurement.

    0 where the measurement is not finite: a seed that breaks the loss does not help.
    """
    surplus = impact.loss_gain - needed
    if not (math.isfinite(surplus) and math.isfinite(impact.loss_gain_error)):
        return 0.0
    if impact.loss_gain_error <= 0.0:
        return 1.0 if surplus > 0 else 0.0
    return 0.5 * (1.0 + math.erf(surplus / impact.loss_gain_error / math.sqrt(2.0)))


def _description(impact: Impact, needed: float) -> str:
    side = "lower" if impact.loss_gain >= 0 else "higher"
    over = "" if impact.error_over == "samples" else f" over {impact.error_values} {impact.error_over}"
    measured = f"standard error {impact.loss_gain_error:.2g}{over}, {impact.samples} samples"
    text = (
        f"validation loss is {abs(impact.loss_gain):.4g} {side} with it than without "
        f"({measured}, asked for {needed:.2g} lower)"
    )
    if impact.accuracy_gain is None:
        return text
    return f"{text}, accuracy {100 * impact.accuracy_gain:+.2f} points"


def _last_finite(history: tuple[float, ...]) -> float:
    return history[-1] if history and math.isfinite(history[-1]) else 0.0

"""The default policy: few large seeds, early, late layers first, kept only where they measurably help.

Its rules were measured before it was written: every epoch of delay costs about 0.3 points of accuracy,
four small grafts gained less than two large ones, the parameter count alone ranks candidates about as
well as any static score, and only validation with a seed on against off can tell whether it helps.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, Candidate, Outcome, SiteState, SystemStatePacket
from esper.tamiyo.ground import Ground
from esper.tamiyo.judge import Judge
from esper.tamiyo.ledger import Ledger
from esper.tamiyo.policy import CommandWriter
from esper.tamiyo.randomness import dump_random, load_random

# How many of a run's own seeds the prior weighs as much as.
_PRIOR_WEIGHT = 4.0
# Width beside depth of the same size: on Fashion-MNIST two 3x3 seeds in series gained 3.9 points on a small
# convnet, two in parallel 2.1. Where only a parallel seed can use the room (narrow layers), it still wins.
_PARALLEL = 0.8


@dataclass(frozen=True, slots=True)
class _Choice:
    """A candidate at a site, with what the policy expects of it."""

    site: SiteState
    candidate: Candidate
    rating: float
    score: float


class HeuristicPolicy:
    """Plants up to `max_seeds` seeds that share the room for parameters, and judges each by its impact.

    max_seeds: seeds alive at a time, fossilised ones included.
    prior: confidence in a seed of which nothing is known yet.
    gap_weight: how much of the confidence goes where validation loss is all gap (train loss near 0).
    depth_bias: 0: all depths alike; 1: nothing at the first layer.
    min_urgency: nothing is planted when a smaller share of the run than this is ahead.
    judge, min_gain, min_confidence, confirmations, patience_epochs: see `Judge`.
    seed: of the policy's own random numbers, which only break ties.
    """

    def __init__(
        self,
        *,
        max_seeds: int = 2,
        prior: float = 0.85,
        gap_weight: float = 0.5,
        depth_bias: float = 0.5,
        min_urgency: float = 0.25,
        judge: str = "impact",
        min_gain: float = 0.005,
        min_confidence: float = 0.7,
        confirmations: int = 1,
        patience_epochs: int = 3,
        seed: int = 0,
    ) -> None:
        shares = {
            "prior": prior,
            "gap_weight": gap_weight,
            "depth_bias": depth_bias,
            "min_urgency": min_urgency,
        }
        problems = [f"{name} is {v}; it must lie in [0, 1]" for name, v in shares.items() if not 0 <= v <= 1]
        if max_seeds < 1:
            problems.append(f"max_seeds is {max_seeds}; it must be at least 1")
        if problems:
            raise ConfigError(problems)
        self.max_seeds = max_seeds
        self.prior = prior
        self.gap_weight = gap_weight
        self.depth_bias = depth_bias
        self.min_urgency = min_urgency
        self.judge = Judge(
            judge,
            min_gain=min_gain,
            min_confidence=min_confidence,
            confirmations=confirmations,
            patience_epochs=patience_epochs,
        )
        self.ledger = Ledger()
        self._writer = CommandWriter("heuristic")
        self._random = random.Random(seed)
        self._paused_until = 0

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """Verdicts on seeds first, then germinations; none of these while the loss is not finite."""
        self.ledger.observe(packet.seeds)
        commands = [self._writer.judged(packet, verdict) for verdict in self.judge.verdicts(packet)]
        if problem := _unhealthy(packet):
            if packet.epoch >= self._paused_until:
                self._paused_until = packet.epoch + 1
                commands.append(self._writer.pause(packet, 1, problem))
            return commands
        return commands + self._germinations(packet)

    def report(self, outcome: Outcome) -> None:
        self.ledger.report(outcome)

    def state_dict(self) -> dict[str, Any]:
        return {
            "judge": self.judge.state_dict(),
            "ledger": self.ledger.state_dict(),
            "commands": self._writer.count,
            "random": dump_random(self._random),
            "paused_until": self._paused_until,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.judge.load_state_dict(state["judge"])
        self.ledger.load_state_dict(state["ledger"])
        self._writer.count = int(state["commands"])
        load_random(self._random, state["random"])
        self._paused_until = int(state["paused_until"])

    def _germinations(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        urgency = 1.0 - packet.progress
        if urgency < self.min_urgency:
            return []
        ground = Ground(packet)
        commands = []
        while (missing := self.max_seeds - ground.living) > 0:
            share = ground.room / missing
            choice = self._choose(ground, share)
            if choice is None:
                break
            commands.append(self._plant(packet, ground, choice, share, urgency))
        return commands

    def _choose(self, ground: Ground, share: float) -> _Choice | None:
        """The best candidate within a share of the room; ties go to series, then to chance."""
        choices = [
            self._rate(ground, site, candidate, share) for site, candidate in self._open(ground, share)
        ]
        best = max((choice.score for choice in choices), default=0.0)
        if best <= 0.0:
            return None
        tied = [choice for choice in choices if math.isclose(choice.score, best)]
        # grafts of equal size gained more as further depth than as further width
        series = [choice for choice in tied if choice.candidate.placement == "series"]
        return self._random.choice(series or tied)

    def _open(self, ground: Ground, share: float) -> list[tuple[SiteState, Candidate]]:
        barred = self.ledger.barred
        return [(s, c) for s, c in ground.offers(share) if (s.layer, c.blueprint) not in barred]

    def _rate(self, ground: Ground, site: SiteState, candidate: Candidate, share: float) -> _Choice:
        rating = self.ledger.rating(candidate.blueprint, site.layer, self.prior, _PRIOR_WEIGHT)
        size = candidate.params / share if share else 0.0
        depth = 1.0 - self.depth_bias * (1.0 - site.depth)
        spread = 1.0 / (1 + ground.seeds[site.layer])
        side = 1.0 if candidate.placement == "series" else _PARALLEL
        score = rating * size * math.sqrt(_use(candidate, site)) * depth * spread * side
        return _Choice(site, candidate, rating, score)

    def _plant(
        self,
        packet: SystemStatePacket,
        ground: Ground,
        choice: _Choice,
        share: float,
        urgency: float,
    ) -> AdaptationCommand:
        gap = _overfit(packet)
        site, candidate = choice.site, choice.candidate
        slot = ground.take(site.layer, candidate)
        options = ", ".join(f"{name} {value}" for name, value in candidate.options.items())
        reason = (
            f"{candidate.blueprint} ({options}) in {candidate.placement}: {candidate.params:,} of the "
            f"{share:,.0f} parameters a seed may have, {100 * urgency:.0f} % of the run ahead, "
            f"chance to help {choice.rating:.2f}, validation loss {100 * gap:.0f} % above training"
        )
        evidence = {
            "params": float(candidate.params),
            "flops": float(candidate.flops),
            "share": share,
            "depth": site.depth,
            "rating": choice.rating,
            "score": choice.score,
            "gap": gap,
        }
        return self._writer.germinate(
            packet,
            site.layer,
            slot,
            candidate,
            confidence=choice.rating * (1.0 - self.gap_weight * gap),
            urgency=urgency,
            reason=reason,
            evidence=evidence,
        )


def _use(candidate: Candidate, site: SiteState) -> float:
    """FLOPs a parameter, against the best at the site: parameters that work at every position do more."""
    if candidate.params == 0:
        return 0.0
    best = max(c.flops / c.params for c in site.candidates if c.params)
    return candidate.flops / candidate.params / best if best else 1.0


def _overfit(packet: SystemStatePacket) -> float:
    """Share of the validation loss that training does not have, in [0, 1]; 0 before both are known."""
    if not packet.val_loss_history or not packet.train_loss_history:
        return 0.0
    train, validation = packet.train_loss_history[-1], packet.val_loss_history[-1]
    if validation <= 0.0:
        return 0.0
    return min(1.0, max(0.0, (validation - train) / validation))


def _unhealthy(packet: SystemStatePacket) -> str | None:
    """Why this is no time to grow, or None; before the first step there is no training loss yet."""
    losses = {"training": packet.train_loss if packet.step else 0.0}
    if packet.val_loss_history:
        losses["validation"] = packet.val_loss_history[-1]
    bad = [f"the {name} loss is {value}" for name, value in losses.items() if not math.isfinite(value)]
    return f"{bad[0]}: nothing is planted until training is sound" if bad else None

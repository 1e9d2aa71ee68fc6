"""The control: random times, places, blueprints and sizes, within the same limits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, Candidate, CommandKind, Outcome, SiteState, SystemStatePacket
from esper.tamiyo.arguments import counted
from esper.tamiyo.base import CommandWriter
from esper.tamiyo.budget import Budget
from esper.tamiyo.pruning import PruningRule
from esper.tamiyo.randomness import dump_random, load_random


class RandomPolicy:
    """Plants up to `max_seeds` seeds at times drawn evenly from the run's first `latest` share.

    Layer, blueprint and candidate are drawn evenly, in that order, among all that fit the room for
    parameters. A seed that was culled is replaced before `latest` is over, as the other policies do.
    judge, min_gain, min_confidence, confirmations, patience_epochs: see `PruningRule`.
    seed: of the policy's own random numbers.
    """

    def __init__(
        self,
        *,
        max_seeds: int = 2,
        latest: float = 0.5,
        judge: str = "impact",
        min_gain: float = 0.005,
        min_confidence: float = 0.7,
        confirmations: int = 1,
        patience_epochs: int = 3,
        seed: int = 0,
    ) -> None:
        problems = counted(max_seeds=max_seeds)
        if not 0.0 <= latest <= 1.0:
            problems.append(f"latest is {latest}; it must be a share of the run in [0, 1]")
        if problems:
            raise ConfigError(problems)
        self.latest = latest
        self.judge = PruningRule(
            judge,
            min_gain=min_gain,
            min_confidence=min_confidence,
            confirmations=confirmations,
            patience_epochs=patience_epochs,
        )
        self._writer = CommandWriter("random")
        self._random = random.Random(seed)
        self._planted = 0
        self._times = sorted(self._random.uniform(0.0, latest) for _ in range(max_seeds))

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """Verdicts on seeds first, then as many seeds as the times drawn call for."""
        commands = [self._writer.judged(packet, verdict) for verdict in self.judge.verdicts(packet)]
        ground = Budget(packet)
        wanted = sum(time <= packet.progress for time in self._times)
        if packet.progress > self.latest and self._planted >= wanted:
            return commands
        while ground.living < wanted and (choice := self._draw(ground)) is not None:
            commands.append(self._plant(packet, ground, *choice))
        return commands

    def report(self, outcome: Outcome) -> None:
        self._planted += outcome.applied and outcome.command.kind is CommandKind.GERMINATE

    def state_dict(self) -> dict[str, Any]:
        return {
            "judge": self.judge.state_dict(),
            "times": list(self._times),
            "planted": self._planted,
            "commands": self._writer.count,
            "random": dump_random(self._random),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.judge.load_state_dict(state["judge"])
        self._times = list(state["times"])
        self._planted = int(state["planted"])
        self._writer.count = int(state["commands"])
        load_random(self._random, state["random"])

    def _draw(self, ground: Budget) -> tuple[SiteState, Candidate] | None:
        offers = ground.offers(ground.room)
        if not offers:
            return None
        layer = self._random.choice(list(dict.fromkeys(site.layer for site, _ in offers)))
        here = [(site, candidate) for site, candidate in offers if site.layer == layer]
        blueprint = self._random.choice(list(dict.fromkeys(candidate.blueprint for _, candidate in here)))
        return self._random.choice([offer for offer in here if offer[1].blueprint == blueprint])

    def _plant(
        self, packet: SystemStatePacket, ground: Budget, site: SiteState, candidate: Candidate
    ) -> AdaptationCommand:
        return self._writer.germinate(
            packet,
            site.layer,
            ground.take(site.layer, candidate),
            candidate,
            confidence=1.0,
            urgency=1.0,
            reason=f"drawn at random: {candidate.blueprint} with {candidate.params:,} parameters",
            evidence={"params": float(candidate.params), "flops": float(candidate.flops)},
        )

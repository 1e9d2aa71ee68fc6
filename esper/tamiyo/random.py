"""The control policy: random times, layers, blueprints and sizes, within the same limits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, Candidate, CommandKind, Outcome, SiteState, SystemStatePacket
from esper.tamiyo.arguments import count_problems
from esper.tamiyo.base import CommandWriter, Rationale
from esper.tamiyo.budget import Budget
from esper.tamiyo.pruning import PruningRule
from esper.tamiyo.randomness import dump_random, load_random


class RandomPolicy:
    """Germinates up to `max_seeds` seeds at times drawn uniformly from the run's first `latest` share.

    Layer, blueprint and candidate are drawn uniformly, in that order, among all that fit the parameter
    budget. A seed that was culled before `latest` is replaced, as with the other policies.

    Args:
        max_seeds: number of seeds.
        latest: share of the run in which seeds may start, in [0, 1].
        judge: mode of the pruning rule, "impact" or "keep"; see `PruningRule` for it and the next four.
        min_gain: share of the validation loss that a seed must remove.
        min_confidence: probability that a pruning decision needs.
        confirmations: epochs in a row that must speak against a seed.
        patience_epochs: epochs of probation after which a seed without a clear effect is culled.
        seed: seed of the policy's random numbers.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> policy = RandomPolicy(max_seeds=3, latest=0.25, seed=1)
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
        problems = count_problems(max_seeds=max_seeds)
        if not 0.0 <= latest <= 1.0:
            problems.append(f"latest is {latest}; it must be a share of the run in [0, 1]")
        if problems:
            raise ConfigError(problems)
        self.latest = latest
        self.pruning_rule = PruningRule(
            judge,
            min_gain=min_gain,
            min_confidence=min_confidence,
            confirmations=confirmations,
            patience_epochs=patience_epochs,
        )
        self._writer = CommandWriter("random")
        self._random = random.Random(seed)
        self._germinated = 0
        self._times = sorted(self._random.uniform(0.0, latest) for _ in range(max_seeds))

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """Return pruning decisions first, then the germinations that are due."""
        commands = [
            self._writer.from_decision(packet, decision) for decision in self.pruning_rule.decisions(packet)
        ]
        budget = Budget(packet)
        wanted = sum(time <= packet.progress for time in self._times)
        if packet.progress > self.latest and self._germinated >= wanted:
            return commands
        while budget.alive < wanted and (choice := self._draw(budget)) is not None:
            commands.append(self._germinate(packet, budget, *choice))
        return commands

    def report(self, outcome: Outcome) -> None:
        self._germinated += outcome.applied and outcome.command.kind is CommandKind.GERMINATE

    def state_dict(self) -> dict[str, Any]:
        return {
            "judge": self.pruning_rule.state_dict(),
            "times": list(self._times),
            "planted": self._germinated,
            "commands": self._writer.count,
            "random": dump_random(self._random),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pruning_rule.load_state_dict(state["judge"])
        self._times = list(state["times"])
        self._germinated = int(state["planted"])
        self._writer.count = int(state["commands"])
        load_random(self._random, state["random"])

    def _draw(self, budget: Budget) -> tuple[SiteState, Candidate] | None:
        offers = budget.offers(budget.remaining_params)
        if not offers:
            return None
        layer = self._random.choice(list(dict.fromkeys(site.layer for site, _ in offers)))
        here = [(site, candidate) for site, candidate in offers if site.layer == layer]
        blueprint = self._random.choice(list(dict.fromkeys(candidate.blueprint for _, candidate in here)))
        return self._random.choice([offer for offer in here if offer[1].blueprint == blueprint])

    def _germinate(
        self, packet: SystemStatePacket, budget: Budget, site: SiteState, candidate: Candidate
    ) -> AdaptationCommand:
        return self._writer.germinate(
            packet,
            site.layer,
            budget.reserve(site.layer, candidate),
            candidate,
            Rationale(
                1.0,
                1.0,
                f"drawn at random: {candidate.blueprint} with {candidate.params:,} parameters",
                {"params": float(candidate.params), "flops": float(candidate.flops)},
            ),
        )

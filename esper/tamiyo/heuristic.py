"""The default policy: few large seeds, early, late layers first, kept only where they measurably help.

Its rules come from measurements: every epoch of delay costs about 0.3 points of accuracy; many small seeds
later on gained less than a few large ones at once; the parameter count alone ranks candidates of different
size about as well as any score; and only validation with a seed on and off can show whether it helps. The
value of each kind of seed is in `scoring`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, Candidate, Outcome, SiteState, SystemStatePacket
from esper.tamiyo.arguments import count_problems
from esper.tamiyo.base import CommandWriter, Rationale
from esper.tamiyo.budget import Allowance, Budget
from esper.tamiyo.outcomes import OutcomeHistory
from esper.tamiyo.pruning import PruningRule
from esper.tamiyo.randomness import dump_random, load_random
from esper.tamiyo.scoring import ScoredCandidate, flops_per_param, prior_value, total_allowance

# Weight of the prior, in seeds of the run.
_PRIOR_WEIGHT = 4.0


class HeuristicPolicy:
    """Germinates up to `max_seeds` seeds that share the parameter budget; keeps those that help.

    Args:
        max_seeds: seeds alive at a time, fossilised ones included.
        prior: confidence in a seed before any evidence, in [0, 1].
        gap_weight: reduction of the confidence when the validation loss is all generalisation gap (training
            loss near 0), in [0, 1].
        depth_bias: 0 treats all depths alike; 1 gives the first layer no seed.
        min_urgency: no seed is germinated when a smaller share of the run than this is left.
        min_worth: no seed is germinated whose value per parameter times its fraction of the whole budget is
            below this.
        shortlist: candidates of a germination that are passed to lookahead, where it is on.
        judge: mode of the pruning rule, "impact" or "keep"; see `PruningRule` for it and the next four.
        min_gain: share of the validation loss that a seed must remove.
        min_confidence: probability that a pruning decision needs.
        confirmations: epochs in a row that must speak against a seed.
        patience_epochs: epochs of probation after which a seed without a clear effect is culled.
        seed: seed of the policy's random numbers, which only break ties.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> HeuristicPolicy(max_seeds=2).max_seeds
        2
    """

    def __init__(
        self,
        *,
        max_seeds: int = 4,
        prior: float = 0.85,
        gap_weight: float = 0.5,
        depth_bias: float = 0.5,
        min_urgency: float = 0.25,
        min_worth: float = 0.05,
        shortlist: int = 1,
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
            "min_worth": min_worth,
        }
        problems = [f"{name} is {v}; it must lie in [0, 1]" for name, v in shares.items() if not 0 <= v <= 1]
        problems += count_problems(max_seeds=max_seeds, shortlist=shortlist)
        if problems:
            raise ConfigError(problems)
        self.max_seeds = max_seeds
        self.prior = prior
        self.gap_weight = gap_weight
        self.depth_bias = depth_bias
        self.min_urgency = min_urgency
        self.min_worth = min_worth
        self.shortlist = shortlist
        self.pruning_rule = PruningRule(
            judge,
            min_gain=min_gain,
            min_confidence=min_confidence,
            confirmations=confirmations,
            patience_epochs=patience_epochs,
        )
        self.history = OutcomeHistory()
        self._writer = CommandWriter("heuristic")
        self._random = random.Random(seed)
        self._paused_until = 0

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """Return pruning decisions first, then germinations; no germination while the loss is not finite."""
        self.history.observe(packet.seeds)
        commands = [
            self._writer.from_decision(packet, decision) for decision in self.pruning_rule.decisions(packet)
        ]
        if problem := _divergence(packet):
            if packet.epoch >= self._paused_until:
                self._paused_until = packet.epoch + 1
                commands.append(self._writer.pause(packet, 1, problem))
            return commands
        return commands + self._germinations(packet)

    def report(self, outcome: Outcome) -> None:
        self.history.report(outcome)

    def state_dict(self) -> dict[str, Any]:
        return {
            "judge": self.pruning_rule.state_dict(),
            "ledger": self.history.state_dict(),
            "commands": self._writer.count,
            "random": dump_random(self._random),
            "paused_until": self._paused_until,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pruning_rule.load_state_dict(state["judge"])
        self.history.load_state_dict(state["ledger"])
        self._writer.count = int(state["commands"])
        load_random(self._random, state["random"])
        self._paused_until = int(state["paused_until"])

    def _germinations(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        urgency = 1.0 - packet.progress
        if urgency < self.min_urgency:
            return []
        budget = Budget(packet)
        commands = []
        while (missing := self.max_seeds - budget.alive) > 0:
            # where the budget is too small for so many seeds, fewer share it
            ranked = (self._rank(packet, budget, parts) for parts in range(missing, 0, -1))
            choices = next(filter(None, ranked), None)
            if choices is None:
                break
            commands.append(self._germinate(packet, budget, choices, urgency))
        return commands

    def _rank(self, packet: SystemStatePacket, budget: Budget, parts: int) -> list[ScoredCandidate]:
        """Return candidates within their allowance, best first; ties go to series, then to chance.

        Of each blueprint at each layer only the best size is listed. Seeds in series add up to depth and
        share the budget; width gains most in one piece, so a seed in parallel may use all of it.
        """
        shares = {
            "series": Allowance(budget.remaining_params / parts, budget.remaining_flops / parts),
            "parallel": Allowance(budget.remaining_params, budget.remaining_flops),
        }
        whole = total_allowance(packet)
        offers = [(s, c) for s, c in self._open_offers(budget) if shares[c.placement].allows(c)]
        # positions differ from layer to layer; what reads the same values is compared
        most: dict[int, float] = {}
        for _, candidate in offers:
            most[candidate.reads] = max(flops_per_param(candidate), most.get(candidate.reads, 0.0))
        best: dict[tuple[str, str, str], ScoredCandidate] = {}
        for site, candidate in offers:
            allowance, key = (
                shares[candidate.placement],
                (site.layer, candidate.blueprint, candidate.placement),
            )
            choice = self._score(packet, budget, site, candidate, allowance, most[candidate.reads])
            if whole is not None and choice.value * whole.used_fraction(candidate) < self.min_worth:
                continue
            if choice.score > 0.0 and (key not in best or choice.score > best[key].score):
                best[key] = choice
        ranked = list(best.values())
        self._random.shuffle(ranked)
        # seeds of equal size gained more as further depth than as further width
        ranked.sort(key=lambda c: (-float(f"{c.score:.9g}"), c.candidate.placement != "series"))
        return ranked

    def correction(
        self, packet: SystemStatePacket, site: SiteState, candidate: Candidate, allowance: Allowance
    ) -> float:
        """Return a factor on a candidate's score; subclasses with other knowledge override it.

        Args:
            packet: the state of the run.
            site: the layer.
            candidate: the candidate.
            allowance: the parameters and FLOPs that it may use.
        """
        return 1.0

    def _open_offers(self, budget: Budget) -> list[tuple[SiteState, Candidate]]:
        excluded, offers = (
            self.history.excluded,
            budget.offers(budget.remaining_params, budget.remaining_flops),
        )
        return [(s, c) for s, c in offers if (s.layer, c.blueprint) not in excluded]

    def _score(
        self,
        packet: SystemStatePacket,
        budget: Budget,
        site: SiteState,
        candidate: Candidate,
        allowance: Allowance,
        max_flops_per_param: float,
    ) -> ScoredCandidate:
        rating = self.history.rating(candidate.blueprint, site.layer, self.prior, _PRIOR_WEIGHT)
        depth = 1.0 - self.depth_bias * (1.0 - site.depth)
        spread = (1 + budget.seeds[site.layer]) ** -0.5
        value = rating * prior_value(candidate, max_flops_per_param, packet.inputs) * depth * spread
        value *= self.correction(packet, site, candidate, allowance)
        return ScoredCandidate(site, candidate, rating, value, allowance)

    def _germinate(
        self,
        packet: SystemStatePacket,
        budget: Budget,
        choices: Sequence[ScoredCandidate],
        urgency: float,
    ) -> AdaptationCommand:
        """Return the command for the first choice, the next ones on its shortlist; its budget is reserved."""
        slots = {choice.site.layer: budget.free[choice.site.layer][0] for choice in choices}
        ahead = [
            self._command(packet, choice, slots[choice.site.layer], urgency)
            for choice in choices[: max(1, self.shortlist)]
        ]
        budget.reserve(choices[0].site.layer, choices[0].candidate)
        return replace(ahead[0], shortlist=tuple(ahead[1:]))

    def _command(
        self, packet: SystemStatePacket, choice: ScoredCandidate, slot: int, urgency: float
    ) -> AdaptationCommand:
        gap = _overfit(packet)
        site, candidate, allowance = choice.site, choice.candidate, choice.allowance
        options = ", ".join(f"{name} {value}" for name, value in candidate.options.items())
        reason = (
            f"{candidate.blueprint} ({options}) in {candidate.placement}: {candidate.params:,} of the "
            f"{allowance.params:,.0f} parameters a seed may have, {100 * urgency:.0f} % of the run ahead, "
            f"chance to help {choice.rating:.2f}, validation loss {100 * gap:.0f} % above training"
        )
        evidence = {
            "params": float(candidate.params),
            "flops": float(candidate.flops),
            "share": allowance.params,
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
            Rationale(choice.rating * (1.0 - self.gap_weight * gap), urgency, reason, evidence),
        )


def _overfit(packet: SystemStatePacket) -> float:
    """Generalisation gap as a share of the validation loss, in [0, 1]; 0 before both losses are known."""
    if not packet.val_loss_history or not packet.train_loss_history:
        return 0.0
    train, validation = packet.train_loss_history[-1], packet.val_loss_history[-1]
    if validation <= 0.0:
        return 0.0
    return min(1.0, max(0.0, (validation - train) / validation))


def _divergence(packet: SystemStatePacket) -> str | None:
    """Return why the network must not grow now, or None; before the first step there is no training loss."""
    losses = {"training": packet.train_loss if packet.step else 0.0}
    if packet.val_loss_history:
        losses["validation"] = packet.val_loss_history[-1]
    bad = [f"the {name} loss is {value}" for name, value in losses.items() if not math.isfinite(value)]
    return f"{bad[0]}: no seed is added until the loss is finite" if bad else None

"""The heuristic policy, corrected by earlier runs: a contextual bandit with an episode file.

Each candidate's heuristic score is multiplied by exp(w . x): x are dimensionless features (used fraction of
the budget, cost, depth, placement, blueprint, timing), w weights that are drawn once per run from the
posterior given the episodes. Without episodes it explores around the heuristic; the more runs are known, the
less it deviates. A run becomes an episode when it finishes; an interrupted run only after it was resumed and
has finished.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, Candidate, CommandKind, Outcome, SiteState, SystemStatePacket
from esper.tamiyo.bandit import LinearBandit, linear_value
from esper.tamiyo.budget import Allowance
from esper.tamiyo.episodes import Episode, EpisodeStore
from esper.tamiyo.heuristic import HeuristicPolicy

# Standard deviation of the logarithm of the final loss between runs that differ in their seed only.
_NOISE = 0.05
# Shares of the run after which growth may begin; any delay has to be learnt.
_STARTS = (0.0, 0.05, 0.125)
# Prior cost of waiting for the whole run, in units of the score: one epoch of ten costs about 0.3 points.
_DELAY = 2.0


class LearnedPolicy(HeuristicPolicy):
    """`HeuristicPolicy` with scores corrected by the episodes of earlier runs.

    Args:
        memory: path of the episode file; made if missing, shared by all runs that name it.
        explore: prior standard deviation of a weight; 0 is the plain heuristic, whose runs are recorded.
        seed: seed of the policy's random numbers.
        **heuristic: arguments of `HeuristicPolicy`.

    Raises:
        ConfigError: a value is out of range, or the file is not an episode file or not writable.

    Example:
        >>> policy = LearnedPolicy(memory="/tmp/episodes.json", explore=0.3)  # doctest: +SKIP
    """

    def __init__(self, *, memory: str, explore: float = 0.3, seed: int = 0, **heuristic: Any) -> None:
        super().__init__(seed=seed, **heuristic)
        if not 0.0 <= explore < math.inf:
            raise ConfigError(f"explore is {explore}; it must be a number of at least 0")
        self.memory = EpisodeStore(Path(memory))
        self.memory.check()
        self.explore = explore
        self._seed = seed
        episodes = self.memory.read()
        self.weights: dict[str, float] = {}
        if explore > 0.0:
            bandit = LinearBandit(episodes, spread=explore, noise=_NOISE)
            self.weights = bandit.sample(self._random)
        self.start = max(_STARTS, key=lambda start: self._feature_weight(f"start {start:g}") - _DELAY * start)
        self._offered: dict[str, dict[str, float]] = {}
        self._germinated: list[dict[str, float]] = []
        self._recorded = False

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """As the heuristic, but without germinations before the drawn start of growth."""
        self._offered = {}
        commands = super().decide(packet)
        if packet.progress < self.start:
            return [c for c in commands if c.kind is not CommandKind.GERMINATE]
        return commands

    def report(self, outcome: Outcome) -> None:
        super().report(outcome)
        command = outcome.command
        if outcome.applied and command.kind is CommandKind.GERMINATE:
            self._germinated.append(self._offered[_command_key(command)])

    def correction(
        self, packet: SystemStatePacket, site: SiteState, candidate: Candidate, allowance: Allowance
    ) -> float:
        """Return exp(w . x) for the candidate's features."""
        features = self._features(packet, site, candidate, allowance)
        self._offered[_candidate_key(site.layer, candidate)] = features
        return math.exp(linear_value({name: self._feature_weight(name) for name in features}, features))

    def _features(
        self, packet: SystemStatePacket, site: SiteState, candidate: Candidate, allowance: Allowance
    ) -> dict[str, float]:
        cost = candidate.flops / packet.flops_now if packet.flops_now else 0.0
        reads = candidate.reads / packet.inputs if packet.inputs else 1.0
        return {
            f"blueprint {candidate.blueprint}": 1.0,
            f"start {self.start:g}": 1.0,
            "parallel": float(candidate.placement == "parallel"),
            "depth": site.depth,
            "depth in parallel": site.depth * (candidate.placement == "parallel"),
            "size": allowance.used_fraction(candidate),
            "cost": math.log1p(cost),
            "reads": min(1.0, reads),
        }

    def _feature_weight(self, name: str) -> float:
        if name not in self.weights:
            self.weights[name] = self._random.gauss(0.0, self.explore)
        return self.weights[name]

    def finish(self, packet: SystemStatePacket) -> None:
        """Add the run to the episode file, if it germinated a seed."""
        losses = [loss for loss in packet.val_loss_history if math.isfinite(loss) and loss > 0.0]
        if self._recorded or not self._germinated or not losses:
            return
        task = f"{packet.params_host} parameters, {packet.inputs} inputs, {packet.steps_per_epoch} steps"
        task += f" x {packet.max_epochs}, up to {packet.max_params} parameters"
        run_id = f"{packet.session_name}, seed {self._seed}, {task}, {packet.train_loss:.9g}"
        self.memory.add(Episode(run_id, task, -math.log(min(losses)), tuple(self._germinated)))
        self._recorded = True

    def state_dict(self) -> dict[str, Any]:
        own = {
            "weights": self.weights,
            "start": self.start,
            "planted": self._germinated,
            "told": self._recorded,
        }
        return {**super().state_dict(), "learned": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        own = state["learned"]
        self.weights, self.start = dict(own["weights"]), float(own["start"])
        self._germinated, self._recorded = [dict(seed) for seed in own["planted"]], bool(own["told"])


def _candidate_key(layer: str, candidate: Candidate) -> str:
    return f"{layer} {candidate.blueprint} {candidate.placement} {sorted(candidate.options.items())}"


def _command_key(command: AdaptationCommand) -> str:
    return f"{command.layer} {command.blueprint} {command.placement} {sorted(command.options.items())}"

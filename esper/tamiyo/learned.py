"""The heuristic, corrected by what became of earlier runs: a contextual bandit with a memory on disk.

Each candidate's heuristic score is multiplied by exp(w . x): x are features without a unit (share of the
room, cost, depth, placement, blueprint, timing), w weights drawn once a run from what the memory's episodes
make probable. With an empty memory it explores around the heuristic; the more runs are known, the less it
strays. A run becomes an episode at its end; one that is stopped or killed, only once it was resumed to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, Candidate, CommandKind, Outcome, SiteState, SystemStatePacket
from esper.tamiyo.bandit import LinearBandit, worth
from esper.tamiyo.budget import Allowance
from esper.tamiyo.episodes import Episode, EpisodeStore
from esper.tamiyo.heuristic import HeuristicPolicy

# Of the logarithm of a run's final loss: what is left between runs that differ in their seed only.
_NOISE = 0.05
# Shares of the run after which growth may begin; every one later than the first decision has to be learnt.
_STARTS = (0.0, 0.05, 0.125)
# What is expected of waiting, in the same unit for the whole run: an epoch of ten costs some 0.3 points.
_DELAY = 2.0


class LearnedPolicy(HeuristicPolicy):
    """Plants as `HeuristicPolicy` does, by scores that earlier runs have corrected.

    memory: the file of episodes; made where there is none, shared by all runs that name it.
    explore: standard deviation of a weight about which nothing is known; 0: the heuristic, remembered.
    The other options are those of `HeuristicPolicy`. Raises `ConfigError` for a file that is no memory.
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
        self.start = max(_STARTS, key=lambda start: self._weight(f"start {start:g}") - _DELAY * start)
        self._offered: dict[str, dict[str, float]] = {}
        self._planted: list[dict[str, float]] = []
        self._told = False

    def decide(self, packet: SystemStatePacket) -> list[AdaptationCommand]:
        """As the heuristic, from the time on that growth is to begin."""
        self._offered = {}
        commands = super().decide(packet)
        if packet.progress < self.start:
            return [c for c in commands if c.kind is not CommandKind.GERMINATE]
        return commands

    def report(self, outcome: Outcome) -> None:
        super().report(outcome)
        command = outcome.command
        if outcome.applied and command.kind is CommandKind.GERMINATE:
            self._planted.append(self._offered[_place(command)])

    def correction(
        self, packet: SystemStatePacket, site: SiteState, candidate: Candidate, share: Allowance
    ) -> float:
        """exp(w . x) for the candidate's features."""
        features = self._features(packet, site, candidate, share)
        self._offered[_offer(site.layer, candidate)] = features
        return math.exp(worth({name: self._weight(name) for name in features}, features))

    def _features(
        self, packet: SystemStatePacket, site: SiteState, candidate: Candidate, share: Allowance
    ) -> dict[str, float]:
        cost = candidate.flops / packet.flops_now if packet.flops_now else 0.0
        reads = candidate.reads / packet.inputs if packet.inputs else 1.0
        return {
            f"blueprint {candidate.blueprint}": 1.0,
            f"start {self.start:g}": 1.0,
            "parallel": float(candidate.placement == "parallel"),
            "depth": site.depth,
            "depth in parallel": site.depth * (candidate.placement == "parallel"),
            "size": share.filled(candidate),
            "cost": math.log1p(cost),
            "reads": min(1.0, reads),
        }

    def _weight(self, name: str) -> float:
        if name not in self.weights:
            self.weights[name] = self._random.gauss(0.0, self.explore)
        return self.weights[name]

    def finish(self, packet: SystemStatePacket) -> None:
        """Put the run into the memory, where it planted anything."""
        losses = [loss for loss in packet.val_loss_history if math.isfinite(loss) and loss > 0.0]
        if self._told or not self._planted or not losses:
            return
        task = f"{packet.params_host} parameters, {packet.inputs} inputs, {packet.steps_per_epoch} steps"
        task += f" x {packet.max_epochs}, up to {packet.max_params} parameters"
        run_id = f"{packet.session_name}, seed {self._seed}, {task}, {packet.train_loss:.9g}"
        self.memory.add(Episode(run_id, task, -math.log(min(losses)), tuple(self._planted)))
        self._told = True

    def state_dict(self) -> dict[str, Any]:
        own = {"weights": self.weights, "start": self.start, "planted": self._planted, "told": self._told}
        return {**super().state_dict(), "learned": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        own = state["learned"]
        self.weights, self.start = dict(own["weights"]), float(own["start"])
        self._planted, self._told = [dict(seed) for seed in own["planted"]], bool(own["told"])


def _offer(layer: str, candidate: Candidate) -> str:
    return f"{layer} {candidate.blueprint} {candidate.placement} {sorted(candidate.options.items())}"


def _place(command: AdaptationCommand) -> str:
    return f"{command.layer} {command.blueprint} {command.placement} {sorted(command.options.items())}"

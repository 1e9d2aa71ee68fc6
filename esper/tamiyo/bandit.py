"""A linear bandit over named features: the value of each feature and its uncertainty.

Bayesian linear regression with a normal prior around 0, sampled from as Thompson sampling does (Agrawal and
Goyal, 2013). Scores of runs are compared within a task only: each is taken relative to its task's mean.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from esper.tamiyo.episodes import Episode

Features = Mapping[str, float]


class LinearBandit:
    """Posterior of the features' weights.

    Args:
        episodes: runs with their features and scores.
        spread: standard deviation of the prior.
        noise: standard deviation of a score.
    """

    def __init__(self, episodes: Sequence[Episode], *, spread: float, noise: float) -> None:
        rows = list(_rows(episodes))
        self.names = sorted({name for features, _ in rows for name in features})
        x = np.array([[f.get(name, 0.0) for name in self.names] for f, _ in rows]).reshape(
            len(rows), len(self.names)
        )
        y = np.array([reward for _, reward in rows])
        precision = np.eye(len(self.names)) / spread**2 + x.T @ x / noise**2
        covariance = np.linalg.inv(precision)
        self._mean = covariance @ (x.T @ y) / noise**2
        self._root = np.linalg.cholesky((covariance + covariance.T) / 2)

    @property
    def mean(self) -> dict[str, float]:
        """Posterior mean of the weight of every feature in the episodes."""
        return dict(zip(self.names, self._mean.tolist(), strict=True))

    def sample(self, source: random.Random) -> dict[str, float]:
        """Draw weights from the posterior with the generator `source`."""
        draws = np.array([source.gauss(0.0, 1.0) for _ in self.names])
        return dict(zip(self.names, (self._mean + self._root @ draws).tolist(), strict=True))


def linear_value(weights: Features, features: Features) -> float:
    """Return the sum of features times weights; a feature without a weight counts as zero."""
    return sum(weights.get(name, 0.0) * value for name, value in features.items())


def _rows(episodes: Iterable[Episode]) -> Iterable[tuple[Features, float]]:
    """Yield the features of every seed with its share of the run's score above the task's mean."""
    tasks: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        tasks[episode.task].append(episode)
    for runs in tasks.values():
        mean = sum(run.score for run in runs) / len(runs)
        for run in runs:
            for features in run.seeds:
                # all seeds of a run contribute to its score
                yield features, (run.score - mean) / len(run.seeds)

"""The bandit finds what a feature is worth, relative to runs of the same task, and how sure that is."""

from __future__ import annotations

import math
import random
import statistics

from hypothesis import given, settings
from hypothesis import strategies as st

from esper.tamiyo.bandit import LinearBandit, linear_value
from esper.tamiyo.episodes import Episode


def runs(task: str, level: float, count: int) -> list[Episode]:
    """Half of the runs have the good blueprint, which is worth 0.2."""
    return [
        Episode(f"{task} {n}", task, level + 0.2 * (n % 2), ({("good" if n % 2 else "bad"): 1.0},))
        for n in range(count)
    ]


def test_the_difference_is_found_whatever_the_level_of_a_task() -> None:
    bandit = LinearBandit(runs("easy", 3.0, 20) + runs("hard", -3.0, 20), spread=0.3, noise=0.05)
    assert math.isclose(bandit.mean["good"] - bandit.mean["bad"], 0.2, abs_tol=0.01)


def test_a_task_that_was_run_once_says_nothing() -> None:
    bandit = LinearBandit([Episode("one", "task", 5.0, ({"x": 1.0},))], spread=0.3, noise=0.05)
    assert bandit.mean == {"x": 0.0}


def test_samples_narrow_down_as_episodes_come_in() -> None:
    def deviation(count: int) -> float:
        bandit = LinearBandit(runs("task", 0.0, count), spread=0.3, noise=0.05)
        source = random.Random(0)
        return statistics.stdev(bandit.sample(source)["good"] for _ in range(200))

    assert deviation(2) > 2 * deviation(40) > 0.0


def test_without_episodes_there_are_no_weights() -> None:
    bandit = LinearBandit([], spread=0.3, noise=0.05)
    assert bandit.mean == {} and bandit.sample(random.Random(0)) == {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.floats(-3, 3),
            st.dictionaries(st.sampled_from("xyz"), st.floats(-2, 2), max_size=3),
        ),
        max_size=12,
    )
)
@settings(max_examples=60)
def test_whatever_was_seen_the_weights_are_finite(rows: list[tuple[str, float, dict[str, float]]]) -> None:
    episodes = [Episode(str(n), task, score, (seed,)) for n, (task, score, seed) in enumerate(rows)]
    weights = LinearBandit(episodes, spread=0.3, noise=0.05).sample(random.Random(1))
    assert all(math.isfinite(value) for value in weights.values())
    assert math.isfinite(linear_value(weights, {"x": 1.0, "unknown": 5.0}))

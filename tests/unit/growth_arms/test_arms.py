from __future__ import annotations

import pytest
from growth_arms.arms import (
    ARMS,
    ESPER,
    GROMO,
    RANDOM,
    SCHEDULED,
    SCRATCH,
    STATIC_EQUAL,
    STATIC_SMALL,
    SWEEP,
    Spec,
    arm_hash,
    arms_of,
    compose,
    overrides,
    sweep_source,
)
from growth_arms.tasks import G1, G2, G3, TASKS, Task


def test_random_growth_may_have_as_many_seeds_as_the_shipped_policy() -> None:
    most = [
        compose(overrides(G3, arm, "heuristic")).morphogenetic.policy["max_seeds"] for arm in (RANDOM, ESPER)
    ]
    assert most[0] == most[1]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_the_caps_arrive_to_the_parameter(task: Task) -> None:
    grown = {
        arm: compose(overrides(task, arm, "heuristic")).morphogenetic for arm in (RANDOM, ESPER, SCHEDULED)
    }
    caps = {arm: int(m.max_params_ratio * task.host_params) for arm, m in grown.items()}
    assert caps == {RANDOM: task.grown_params, ESPER: task.grown_params, SCHEDULED: task.max_params}
    assert int(sweep_source(task).morphogenetic.max_params_ratio * task.host_params) == task.max_params
    if task.grown_flops is not None and task.max_flops is not None:
        ratios = [m.max_flops_ratio for m in (grown[RANDOM], grown[ESPER], sweep_source(task).morphogenetic)]
        caps_of_flops = [int(ratio * task.host_flops) for ratio in ratios if ratio]
        assert caps_of_flops == [task.grown_flops, task.grown_flops, task.max_flops]


def test_the_policy_is_the_one_asked_for() -> None:
    assert compose(overrides(G3, ESPER, "random")).morphogenetic.policy["_target_"] == "random"
    assert compose(overrides(G3, RANDOM, "heuristic")).morphogenetic.policy["_target_"] == "random"
    assert not compose(overrides(G3, STATIC_SMALL, "heuristic")).morphogenetic.tamiyo_enabled


def test_the_seed_reaches_run_and_policy() -> None:
    config = Spec(G3, RANDOM, 7, "heuristic").config
    assert (config.seed, config.morphogenetic.policy["seed"]) == (7, 7)


def test_a_sweep_varies_the_topology_alone() -> None:
    assert Spec(G1, SWEEP, 7, "heuristic").config.seed == Spec(G1, SWEEP, 8, "heuristic").config.seed


def test_hashes_tell_arms_apart_and_know_what_matters() -> None:
    hashes = {
        arm: arm_hash(G1, arm, "heuristic") for arm in (STATIC_SMALL, STATIC_EQUAL, GROMO, ESPER, SCRATCH)
    }
    assert len(set(hashes.values())) == len(hashes)
    assert hashes[STATIC_SMALL] == arm_hash(G1, STATIC_SMALL, "random")
    for arm in (ESPER, SCRATCH):
        assert hashes[arm] != arm_hash(G1, arm, "random")


def test_arms_that_a_task_does_not_have() -> None:
    assert arms_of(G1) == list(ARMS)
    assert {STATIC_EQUAL, GROMO}.isdisjoint(arms_of(G2))

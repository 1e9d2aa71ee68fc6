"""What the tasks say of their hosts, caps and plans, against the models themselves."""

from __future__ import annotations

import pytest
import torch
from growth_arms.arms import SCHEDULED, STATIC_BIG, STATIC_EQUAL, STATIC_SMALL, compose, overrides
from growth_arms.tasks import G1, TASKS, Task
from torch.utils.flop_counter import FlopCounterMode

from esper import runs
from esper.config import TolariaConfig
from esper.data import DataInfo
from esper.kasmina import MorphableModel, wrap
from esper.kasmina.blueprints import get_blueprint

SIDES = {"fashion_mnist": 28, "digits": 8}


def config_of(task: Task, arm: str) -> TolariaConfig:
    return compose(overrides(task, arm, "heuristic"))


def model_of(task: Task, arm: str) -> tuple[MorphableModel, int]:
    """The arm's host, and the FLOPs of a forward of one image."""
    config = config_of(task, arm)
    side = SIDES[config.dataset.name]
    info = DataInfo(config.dataset.name, 10, 1, (side, side), (1, side, side), True)
    model = wrap(runs.build_model(config, info), config.model.target_layers).eval()
    image = torch.zeros(1, 1, side, side)
    model.observe(image)
    with FlopCounterMode(display=False) as counter:
        model(image)
    return model, counter.get_total_flops()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_the_host_and_the_caps_are_what_the_task_says(task: Task) -> None:
    small, flops = model_of(task, STATIC_SMALL)
    assert (small.total_params(), flops) == (task.host_params, task.host_flops)
    big, flops_big = model_of(task, STATIC_BIG)
    assert big.total_params() == task.max_params
    if task.max_flops is not None:
        assert flops_big == task.max_flops


def test_the_host_of_equal_parameter_epochs() -> None:
    size = model_of(G1, STATIC_EQUAL)[0].total_params()
    assert size == 44_106
    assert size <= G1.grown_params


def test_growth_of_any_time_keeps_the_parameter_epochs_of_g1() -> None:
    assert G1.max_param_epochs is not None
    assert G1.grown_params * config_of(G1, STATIC_SMALL).optimization.max_epochs <= G1.max_param_epochs


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_a_plan_keeps_the_caps(task: Task) -> None:
    config, (model, _) = config_of(task, SCHEDULED), model_of(task, STATIC_SMALL)
    seeds = config.morphogenetic.policy["seeds"]
    assert len(seeds) == len(task.plan)
    params, spent = task.host_params, 0
    for epoch in range(config.optimization.max_epochs):
        for seed in seeds:
            if seed["at_epoch"] == epoch:
                shape = model.site_shape(seed["layer"], seed.get("placement", "series"))
                params += get_blueprint(seed["blueprint"]).cost(shape, **seed["options"]).params
        spent += params
    assert task.host_params < params <= task.max_params
    assert task.max_param_epochs is None or spent <= task.max_param_epochs


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_every_arm_shares_data_length_and_optimiser(task: Task) -> None:
    small, grown = config_of(task, STATIC_SMALL), config_of(task, SCHEDULED)
    assert (small.dataset, small.optimization) == (grown.dataset, grown.optimization)
    assert not small.dataset.use_augmentation
    assert small.optimization.early_stopping_patience == 0
    assert grown.morphogenetic.adaptation_cooldown == 0  # a clock would make growth depend on the machine

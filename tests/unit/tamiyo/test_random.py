"""The control arm draws times, places, blueprints and sizes."""

from __future__ import annotations

import pytest
from helpers.packets import World, convnet_sites

from esper.errors import ConfigError
from esper.leyline import CommandKind, Outcome, SeedStage
from esper.tamiyo import RandomPolicy


def run(number: int, gain: float = 0.2, **settings: object) -> tuple[World, list[Outcome]]:
    world = World({"conv_heavy": gain, "conv_light": gain}, convnet_sites())
    return world, world.live(RandomPolicy(seed=number, **settings))  # type: ignore[arg-type]


def test_times_places_blueprints_and_sizes_vary_with_the_seed() -> None:
    germinated = [run(number)[0].done(CommandKind.GERMINATE) for number in range(12)]
    assert all(len(commands) == 2 for commands in germinated)
    flat = [command for commands in germinated for command in commands]
    assert {c.layer for c in flat} == {"block1", "block2", "block3"}
    assert {c.blueprint for c in flat} == {"conv_heavy", "conv_light"}
    assert len({c.evidence["params"] for c in flat}) > 6
    steps = {int(c.command_id.split("-")[1]) for c in flat}
    assert len(steps) >= 4 and max(steps) <= 500


def test_a_time_drawn_between_the_last_decisions_is_not_lost() -> None:
    for number in range(10):
        world, _ = run(number, latest=0.05)
        assert [c.command_id.split("-")[1] for c in world.done(CommandKind.GERMINATE)] == ["100", "100"]


def test_the_budget_holds() -> None:
    for number in range(10):
        world, _ = run(number, max_seeds=6)
        assert world.packet().params_now <= world.max_params


def test_culled_seeds_are_replaced_while_it_is_early() -> None:
    world, _ = run(1, gain=-0.2, latest=0.5)
    germinated, culled = world.done(CommandKind.GERMINATE), world.done(CommandKind.CULL)
    assert len(germinated) == len(culled) > 2
    assert max(int(c.command_id.split("-")[1]) for c in germinated) <= 600


def test_keep_fossilises_whatever_it_planted() -> None:
    world, _ = run(1, gain=-0.2, judge="keep")
    assert {s.stage for s in world.seeds.values()} == {SeedStage.FOSSILIZED}


def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        RandomPolicy(max_seeds=0, latest=2.0)
    assert len(caught.value.problems) == 2

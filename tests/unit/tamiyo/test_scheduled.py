"""The scheduled policy does what its plan says, once, and reports what it cannot do."""

from __future__ import annotations

import pytest
from helpers.packets import World, candidate, packet, site

from esper.errors import ConfigError
from esper.leyline import CommandKind, Outcome, Refusal, SeedStage
from esper.tamiyo import PlannedSeed, ScheduledPolicy

SITES = (site("a", 0.0, [candidate("x", 10), candidate("x", 40), candidate("y", 20, placement="parallel")]),)


def test_seeds_are_planted_at_their_epoch_and_step_with_their_options() -> None:
    policy = ScheduledPolicy(
        [
            {"layer": "a", "blueprint": "x", "at_epoch": 1, "options": {"hidden": 10}},
            PlannedSeed("a", "y", at_step=120, placement="parallel"),
        ]
    )
    assert policy.decide(packet(step=99, sites=SITES)) == []
    first = policy.decide(packet(step=100, epoch=1, sites=SITES))
    assert [(c.layer, c.seed_index, c.blueprint, dict(c.options)) for c in first] == [
        ("a", 0, "x", {"hidden": 10})
    ]
    assert "planned for epoch 1" in first[0].reason
    policy.report(Outcome(first[0], None, "", 100, 1))
    second = policy.decide(packet(step=121, epoch=1, sites=SITES))
    assert [(c.blueprint, c.placement) for c in second] == [("y", "parallel")]
    policy.report(Outcome(second[0], None, "", 121, 1))
    assert policy.decide(packet(step=500, epoch=5, sites=SITES)) == []


def test_options_left_out_are_those_of_the_largest_that_fits() -> None:
    policy = ScheduledPolicy([{"layer": "a", "blueprint": "x", "at_step": 0}])
    assert policy.decide(packet(sites=SITES))[0].options == {"hidden": 40}
    tight = packet(sites=SITES, max_params=6274 + 15)
    assert policy.decide(tight)[0].options == {"hidden": 10}


@pytest.mark.parametrize(
    ("refusal", "again"), [(Refusal.CAP, 1), (Refusal.COOLDOWN, 1), (Refusal.INVALID, 0), (Refusal.GATE, 0)]
)
def test_limits_are_waited_for_and_refusals_are_final(refusal: Refusal, again: int) -> None:
    policy = ScheduledPolicy([{"layer": "a", "blueprint": "x", "at_step": 0}])
    command = policy.decide(packet(sites=SITES))[0]
    policy.report(Outcome(command, refusal, "", 50, 0))
    assert len(policy.decide(packet(sites=SITES))) == again


def test_a_taken_slot_is_waited_for_and_two_seeds_take_two_slots() -> None:
    policy = ScheduledPolicy(
        [
            {"layer": "a", "blueprint": "x", "at_step": 0, "seed_index": 1},
            {"layer": "a", "blueprint": "x", "at_step": 0},
            {"layer": "a", "blueprint": "x", "at_step": 0},
        ]
    )
    full = packet(sites=(site("a", 0.0, [candidate("x", 10)], slots=()),))
    assert policy.decide(full) == []
    assert [c.seed_index for c in policy.decide(packet(sites=SITES))] == [1, 0]


def test_a_plan_for_what_is_not_offered_is_sent_so_that_its_refusal_is_on_record() -> None:
    policy = ScheduledPolicy(
        [
            {"layer": "nowhere", "blueprint": "x", "at_step": 0},
            {"layer": "a", "blueprint": "x", "at_step": 0, "options": {"hidden": 11}},
        ]
    )
    commands = policy.decide(packet(sites=SITES))
    assert [(c.layer, dict(c.options)) for c in commands] == [("nowhere", {}), ("a", {"hidden": 11})]


@pytest.mark.parametrize("judge", ["impact", "keep"])
def test_its_seeds_are_judged_like_those_of_other_policies(judge: str) -> None:
    plan = [{"layer": f"block{n}", "blueprint": "conv_heavy", "at_epoch": 0} for n in (2, 3)]
    world = World({"conv_heavy": -0.3})
    world.live(ScheduledPolicy(plan, judge=judge))
    kind = CommandKind.CULL if judge == "impact" else CommandKind.FOSSILIZE
    assert len(world.done(CommandKind.GERMINATE)) == len(world.done(kind)) == 2
    stage = SeedStage.EMBARGOED if judge == "impact" else SeedStage.FOSSILIZED
    assert {s.stage for s in world.seeds.values()} == {stage}


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"layer": "a", "blueprint": "x"}, "needs at_epoch or at_step; it has neither"),
        ({"layer": "a", "blueprint": "x", "at_epoch": 1, "at_step": 1}, "it has both"),
        (
            {"layer": "a", "blueprint": "x", "at_epoch": 1, "placement": "above"},
            "'above'.*'series' or 'parallel'",
        ),
        (
            {"layer": "a", "blueprint": "x", "when": 1},
            "planned seed 0 does not know when; its fields are layer",
        ),
        ({"blueprint": "x", "at_epoch": 1}, "planned seed 0 lacks layer"),
    ],
)
def test_a_wrong_plan_is_refused(plan: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ScheduledPolicy([plan])

"""Every limit refuses visibly, and is remembered."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from helpers.controller import germination, make_controller
from helpers.grown import make_host
from helpers.runs import same, seed_command, weights

from esper.kasmina import TrainingPosition
from esper.leyline import CommandKind, Impact, Refusal, SeedStage

CULL, FOSSILIZE, PAUSE = CommandKind.CULL, CommandKind.FOSSILIZE, CommandKind.PAUSE


# -- limits --------------------------------------------------------------------------------------


def test_a_command_within_all_limits_is_applied_and_logged() -> None:
    setup = make_controller()
    assert setup.decide(germination(1, evidence={"gain": 0.5})) == [None]
    assert setup.grown.model.record("a", 0).stage is SeedStage.BLENDING
    (event,) = setup.notes.named("adaptation_applied")
    assert event.data["command_id"] == "test-1"
    assert (event.data["reason"], event.data["evidence"]) == ("a test wants it", {"gain": 0.5})
    assert setup.structural == [3]
    assert [e.data["to"] for e in setup.notes.named("seed_stage")] == ["germinated", "training", "blending"]


@pytest.mark.parametrize(
    ("changes", "options", "refusal", "message"),
    [
        ({"confidence": 0.69}, {}, Refusal.CONFIDENCE, "0.690 is below 0.7"),
        ({"urgency": 0.49}, {}, Refusal.URGENCY, "0.490 is below 0.5"),
        ({}, {"max_adaptations_per_epoch": 0}, Refusal.CAP, "at most 0"),
        ({"layer": "nowhere"}, {}, Refusal.INVALID, "nowhere"),
        ({"seed_index": 9}, {}, Refusal.INVALID, "slots 0 to 3"),
        ({"blueprint": "mpl"}, {}, Refusal.INVALID, "mlp"),
        ({"options": {"hiden": 3}}, {}, Refusal.INVALID, "hiden"),
        ({"placement": "beside"}, {}, Refusal.INVALID, "beside"),
        ({"kind": CULL}, {}, Refusal.INVALID, "nothing to cull"),
        ({"kind": FOSSILIZE}, {}, Refusal.INVALID, "not probationary"),
    ],
)
def test_each_refusal_names_its_limit_and_changes_nothing(
    changes: dict[str, Any], options: dict[str, Any], refusal: Refusal, message: str
) -> None:
    setup = make_controller(**options)
    before, topology = weights(setup.grown.model), copy.deepcopy(setup.grown.model.topology())
    assert setup.decide(replace(germination(1), **changes)) == [refusal]
    (logged,) = setup.refusals()
    assert logged["refusal"] == refusal.value
    assert message in logged["detail"]
    assert same(weights(setup.grown.model), before)
    assert setup.grown.model.topology() == topology
    assert setup.policy.outcomes[0].refusal is refusal
    assert setup.structural == []
    assert setup.loop.counts == {"proposed": 1, "applied": 0, "refused": 1}


@pytest.mark.parametrize("name", ["confidence", "urgency"])
def test_a_threshold_itself_is_enough(name: str) -> None:
    setup = make_controller(**{f"{name}_threshold": 0.6})
    assert setup.decide(germination(1, **{name: 0.6})) == [None]


def test_the_cap_counts_an_epoch_and_the_most_urgent_go_first() -> None:
    setup = make_controller(max_adaptations_per_epoch=2)
    commands = [germination(n, slot=n, urgency=urgency) for n, urgency in enumerate([0.6, 0.9, 0.7, 0.5])]
    assert setup.decide(*commands, epoch=3) == [None, None, Refusal.CAP, Refusal.CAP]
    assert [o.command.urgency for o in setup.policy.outcomes] == [0.9, 0.7, 0.6, 0.5]
    assert setup.decide(germination(7, "b"), epoch=3, step=20) == [Refusal.CAP]
    assert setup.decide(germination(8, "b"), epoch=4) == [None]


def test_every_kind_of_command_counts_for_the_cap() -> None:
    """Germinate, cull, fossilise and pause."""
    setup = make_controller(max_adaptations_per_epoch=2, grown=make_host(blend_steps=0))
    setup.decide(germination(1))
    assert setup.decide(
        seed_command(CULL, "a", number=2, urgency=1.0),
        seed_command(PAUSE, number=3, urgency=0.9, pause_epochs=1),
        germination(4, "b", urgency=0.8),
        epoch=2,
    ) == [None, None, Refusal.CAP]


def test_the_cooldown_in_epochs() -> None:
    setup = make_controller(adaptation_cooldown_epochs=3)
    assert setup.decide(germination(1), germination(2, slot=1), epoch=5) == [
        None,
        None,
    ]  # one round, one decision
    assert setup.decide(germination(3, slot=2), epoch=6) == [Refusal.COOLDOWN]
    assert setup.decide(germination(3, slot=2), epoch=7) == [Refusal.COOLDOWN]
    assert "within 3 epochs" in setup.refusals()[-1]["detail"]
    assert setup.decide(germination(3, slot=2), epoch=8) == [None]


def test_the_cooldown_in_seconds() -> None:
    setup = make_controller(adaptation_cooldown=30.0)
    assert setup.decide(germination(1)) == [None]
    setup.now[0] += 29.9
    assert setup.decide(germination(2, slot=1), epoch=2) == [Refusal.COOLDOWN]
    assert "30 s ago" in setup.refusals()[-1]["detail"]
    setup.now[0] += 0.1
    assert setup.decide(germination(2, slot=1), epoch=2) == [None]


def test_a_refused_command_starts_no_cooldown() -> None:
    setup = make_controller(adaptation_cooldown_epochs=3, adaptation_cooldown=30.0)
    assert setup.decide(germination(1, confidence=0.1), epoch=1) == [Refusal.CONFIDENCE]
    assert setup.decide(germination(2), epoch=2) == [None]


def test_a_pause_holds_back_germination_and_nothing_else() -> None:
    setup = make_controller(grown=make_host(blend_steps=0))
    setup.decide(germination(1), epoch=1)
    assert setup.decide(seed_command(PAUSE, number=2, pause_epochs=2), epoch=2) == [None]
    assert setup.decide(germination(3, slot=1), epoch=3) == [Refusal.PAUSED]
    assert "until epoch 4" in setup.refusals()[-1]["detail"]
    assert setup.decide(seed_command(CULL, "a", number=4), epoch=3) == [None]
    assert setup.decide(germination(3, "b"), epoch=4) == [None]


def test_a_command_is_applied_once() -> None:
    setup = make_controller()
    assert setup.decide(germination(1)) == [None]
    assert setup.decide(germination(1, slot=1)) == [Refusal.DUPLICATE]
    assert setup.decide(germination(2, confidence=0.1)) == [Refusal.CONFIDENCE]
    assert setup.decide(germination(2, slot=1)) == [None]  # a refused one may come again


def test_the_bound_on_parameters_holds_between_commands_of_one_round() -> None:
    host, trial = make_host(slots=4), make_controller()
    total = host.model.total_params()
    trial.decide(germination(1, options={"hidden": 4}))
    size = trial.grown.model.total_params() - total
    setup = make_controller(grown=host, max_params=total + 2 * size)
    commands = [germination(n, slot=n, options={"hidden": 4}) for n in range(3)]
    assert setup.decide(*commands) == [None, None, Refusal.BUDGET]
    assert f"at most {total + 2 * size:,}" in setup.refusals()[-1]["detail"]
    assert setup.grown.model.total_params() == total + 2 * size


def test_a_closed_gate_refuses_with_its_evidence() -> None:
    setup = make_controller(grown=make_host(blend_steps=0))
    setup.decide(germination(1))
    setup.grown.model.record("a", 0).impact = Impact(-0.1, 0.01, 0.0, 100)
    assert setup.decide(seed_command(FOSSILIZE, "a", number=2)) == [Refusal.GATE]
    assert "impact" in setup.refusals()[-1]["detail"]
    setup.grown.model.record("a", 0).impact = Impact(0.1, 0.01, 0.0, 100)
    assert setup.decide(seed_command(FOSSILIZE, "a", number=3)) == [None]


def test_a_cull_is_reported_as_both_its_moves() -> None:
    setup = make_controller(grown=make_host(blend_steps=0))
    setup.decide(germination(1))
    setup.decide(seed_command(CULL, "a", number=2), epoch=2)
    moves = [(e.data["from"], e.data["to"]) for e in setup.notes.named("seed_stage")][-2:]
    assert moves == [("probationary", "culled"), ("culled", "embargoed")]
    assert setup.notes.named("seed_stage")[-1].data["gates"][0]["gate"] == "reset"
    assert [e.data["params"] for e in setup.notes.named("topology_changed")][
        -1
    ] == setup.grown.model.host_params()


# -- state ---------------------------------------------------------------------------------------


def test_limits_outlive_a_checkpoint() -> None:
    setup = make_controller(adaptation_cooldown_epochs=2, max_adaptations_per_epoch=2)
    setup.decide(germination(1), seed_command(PAUSE, number=2, pause_epochs=5), epoch=4)
    other = make_controller(adaptation_cooldown_epochs=2, max_adaptations_per_epoch=2)
    other.loop.load_state_dict(setup.loop.state_dict())
    assert other.loop.counts == {"proposed": 2, "applied": 2, "refused": 0}
    assert len(other.policy.outcomes) == 2
    assert other.decide(germination(1), epoch=4) == [Refusal.DUPLICATE]
    assert other.decide(germination(3), epoch=4) == [Refusal.CAP]
    assert other.decide(germination(3), epoch=5) == [Refusal.COOLDOWN]
    assert other.decide(germination(3), epoch=6) == [Refusal.PAUSED]
    assert other.decide(germination(3), epoch=9) == [None]


# -- the optimisers' breaker ----------------------------------------------------------------------


def test_while_the_breaker_is_open_nothing_germinates_and_culls_go_on() -> None:
    """Conservative, with a reason; it recovers by itself."""
    setup = make_controller()
    assert setup.decide(germination(1), step=10) == [None]
    rebuilds = setup.grown.optimizers.rebuilds
    for _ in range(3):
        rebuilds.failure(10, 1.0, "no room")
    assert setup.decide(germination(2, slot=1), step=11) == [Refusal.BREAKER]
    assert "could not be updated after 3 of the last" in setup.refusals()[-1]["detail"]
    assert setup.decide(seed_command(CULL, "a", number=3), step=12) == [None]
    assert setup.decide(germination(4, slot=2), step=10 + rebuilds.recovery_steps) == [None]
    assert not rebuilds.is_open(10 + rebuilds.recovery_steps)


# -- emergencies ---------------------------------------------------------------------------------


def test_a_conservative_run_changes_nothing_until_it_is_over() -> None:
    """Level 3."""
    setup = make_controller()
    setup.loop.conservative = lambda: "the loss is nan"
    assert setup.decide(germination(1), seed_command(PAUSE, number=2)) == [Refusal.CONSERVATIVE] * 2
    assert setup.refusals()[0]["detail"] == "the loss is nan"
    setup.loop.conservative = lambda: ""
    assert setup.decide(germination(3)) == [None]


@pytest.mark.parametrize("isolation_steps", [0, 9])
def test_a_seed_is_expelled_at_once_and_leaves_nothing(isolation_steps: int) -> None:
    """Also in the midst of its blend, which is not reversed."""
    setup = make_controller(grown=make_host(slots=4, isolation_steps=isolation_steps, blend_steps=10))
    setup.decide(germination(1))
    for _ in range(3):
        setup.grown.seeds.tick()
    record = setup.grown.model.record("a", 0)
    setup.loop.remove_seed(record, "rollback", TrainingPosition(11, 1))
    assert record.stage is SeedStage.EMBARGOED
    assert setup.grown.seeds.blends == {}
    assert len(setup.grown.model.seeds) == 0
    assert list(setup.grown.optimizers.isolated) == []
    assert [g["name"] for g in setup.grown.optimizers.main.param_groups] == ["host"]
    assert [e.data["to"] for e in setup.notes.named("seed_stage")][-2:] == ["culled", "embargoed"]

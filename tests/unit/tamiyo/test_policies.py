"""What holds for the commands of every policy, on any packet, and for its state."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from helpers.packets import REFUSALS, World, packets
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline import ALIVE, AdaptationCommand, CommandKind, Outcome, SeedStage, SystemStatePacket
from esper.tamiyo import HeuristicPolicy, Policy, RandomPolicy, ScheduledPolicy

PLAN = [
    {"layer": "a", "blueprint": "x", "at_epoch": 0},
    {"layer": "b", "blueprint": "y", "at_step": 150},
    {"layer": "block3", "blueprint": "conv_heavy", "at_epoch": 1, "options": {"hidden": 4608}},
]


def policies(judge: str) -> list[Policy]:
    return [
        HeuristicPolicy(max_seeds=3, min_urgency=0.0, judge=judge, seed=3),
        RandomPolicy(max_seeds=3, latest=1.0, judge=judge, seed=3),
        ScheduledPolicy(PLAN, judge=judge),
    ]


def check(command: AdaptationCommand, packet: SystemStatePacket) -> None:
    assert 0.0 <= command.confidence <= 1.0 and 0.0 <= command.urgency <= 1.0
    assert command.reason and all(math.isfinite(value) for value in command.evidence.values())
    seeds = {(seed.layer, seed.seed_index): seed for seed in packet.seeds}
    key = (command.layer, command.seed_index)
    if command.kind in (CommandKind.CULL, CommandKind.FOSSILIZE):
        stage = seeds[key].stage
        assert stage in ALIVE and stage is not SeedStage.FOSSILIZED
        assert command.kind is CommandKind.CULL or stage is SeedStage.PROBATIONARY
    elif command.kind is CommandKind.GERMINATE:
        site = next(site for site in packet.sites if site.layer == command.layer)
        assert command.seed_index in site.free_slots and key not in seeds
        offered = [(c.blueprint, c.placement, dict(c.options)) for c in site.candidates]
        assert (command.blueprint, command.placement, dict(command.options)) in offered


def is_planned_for_nothing(command: AdaptationCommand, packet: SystemStatePacket) -> bool:
    """A planned seed that no site offers is asked for all the same, so that its refusal is on record."""
    offers = {(s.layer, c.blueprint, c.placement) for s in packet.sites for c in s.candidates}
    planned = command.command_id.startswith("scheduled") and command.kind is CommandKind.GERMINATE
    fits = (command.layer, command.blueprint, command.placement) in offers
    return planned and (not fits or not command.evidence["params"])


@pytest.mark.parametrize("judge", ["impact", "keep"])
@given(st.lists(st.tuples(packets(), REFUSALS), min_size=1, max_size=4))
@settings(max_examples=80)
def test_any_packets_are_answered_with_valid_commands(judge: str, rounds: list[Any]) -> None:
    """Layers exist, slots are free, candidates are offered and fit together, ids are unique, numbers sane."""
    for policy in policies(judge):
        ids: list[str] = []
        for packet, refusal in rounds:
            commands = policy.decide(packet)
            for command in commands:
                if not is_planned_for_nothing(command, packet):
                    check(command, packet)
                ids.append(command.command_id)
                policy.report(Outcome(command, refusal, "", packet.step, packet.epoch))
            targets = [(c.layer, c.seed_index) for c in commands if c.kind is not CommandKind.PAUSE]
            assert len(set(targets)) == len(targets)
            germinated = sum(c.evidence["params"] for c in commands if c.kind is CommandKind.GERMINATE)
            largest = max((c.params for s in packet.sites for c in s.candidates), default=0)
            room = packet.max_params - packet.params_now if packet.max_params is not None else largest
            assert germinated <= room
        assert len(set(ids)) == len(ids)
        json.dumps(policy.state_dict(), allow_nan=False)


@pytest.mark.parametrize("number", range(3), ids=["heuristic", "random", "scheduled"])
@given(st.lists(packets(), min_size=2, max_size=4), st.integers(0, 3), REFUSALS)
@settings(max_examples=40)
def test_a_policy_continues_from_its_saved_state(
    number: int, rounds: list[SystemStatePacket], cut: int, refusal: Any
) -> None:
    """Saved as JSON after any decision and loaded into a fresh policy, it decides as if never saved."""
    straight = policies("impact")[number]
    broken = policies("impact")[number]
    for i, packet in enumerate(rounds):
        expected = straight.decide(packet)
        assert broken.decide(packet) == expected
        for command in expected:
            for policy in (straight, broken):
                policy.report(Outcome(command, refusal, "", packet.step, packet.epoch))
        if i == cut:
            state = json.loads(json.dumps(broken.state_dict()))
            broken = policies("impact")[number]
            broken.load_state_dict(state)


@pytest.mark.parametrize("number", range(3), ids=["heuristic", "random", "scheduled"])
def test_the_same_run_brings_the_same_commands_with_deterministic_ids(number: int) -> None:
    first, again = (
        [o.command for o in World({"conv_heavy": 0.2, "conv_light": -0.2}).live(policies("impact")[number])]
        for _ in range(2)
    )
    assert first == again and first
    name = ("heuristic", "random", "scheduled")[number]
    for i, command in enumerate(first, start=1):
        policy, step, count = command.command_id.split("-")
        assert (policy, int(count)) == (name, i) and int(step) % 100 == 0


def test_policies_load_without_torch() -> None:
    code = "import sys, esper.tamiyo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

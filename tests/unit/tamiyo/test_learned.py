"""`morphogenetic/policy=learned`: it learns from run to run, remembers once, and resumes as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.packets import candidate as offered
from helpers.packets import convnet_sites, packet, site

from esper.errors import ConfigError
from esper.leyline import AdaptationCommand, CommandKind, Outcome, SystemStatePacket
from esper.tamiyo import HeuristicPolicy, LearnedPolicy

TWO = (site("a", 1.0, [offered("conv_light", 9000), offered("conv_heavy", 9000)]),)


def germinations(policy: HeuristicPolicy, state: SystemStatePacket) -> list[AdaptationCommand]:
    return [c for c in policy.decide(state) if c.kind is CommandKind.GERMINATE]


def live(path: Path, number: int, losses: dict[str, float]) -> str:
    """One run: plants once, ends with the loss that its blueprint brings; returns the blueprint."""
    policy = LearnedPolicy(memory=str(path), seed=number, max_seeds=1)
    state = packet(sites=TWO, step=400, epoch=4)
    command = germinations(policy, state)[0]
    policy.report(Outcome(command, None, "", 400, 4))
    end: dict[str, Any] = {"step": 1000, "epoch": 10, "train_loss": 0.3 + number / 1000}
    policy.finish(packet(sites=TWO, val_loss_history=(0.9, losses[command.blueprint]), **end))
    policy.finish(packet(sites=TWO, val_loss_history=(0.9, losses[command.blueprint]), **end))
    return command.blueprint


def test_outcomes_of_earlier_runs_decide_between_equals(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    losses = {"conv_light": 0.4, "conv_heavy": 0.5}
    chosen = [live(path, number, losses) for number in range(40)]
    assert set(chosen[:20]) == {"conv_light", "conv_heavy"}
    assert chosen[-10:].count("conv_light") >= 9
    assert len(json.loads(path.read_text())["episodes"]) == 40


def test_with_nothing_to_explore_it_is_the_heuristic(tmp_path: Path) -> None:
    state = packet(sites=tuple(convnet_sites()))
    plain = germinations(HeuristicPolicy(), state)
    learned = germinations(LearnedPolicy(memory=str(tmp_path / "m.json"), explore=0.0), state)
    assert [(c.layer, c.options) for c in plain] == [(c.layer, c.options) for c in learned]


def test_what_was_not_carried_out_is_no_episode(tmp_path: Path) -> None:
    policy = LearnedPolicy(memory=str(tmp_path / "m.json"))
    policy.decide(packet(sites=TWO, step=400))
    policy.finish(packet(sites=TWO, epoch=10, step=1000, val_loss_history=(0.5,)))
    assert not policy.memory.path.exists()


def test_resumed_it_decides_and_remembers_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Weights are drawn once a run and stand in the checkpoint, whatever other jobs have learnt meanwhile."""
    first = LearnedPolicy(memory=str(tmp_path / "m.json"), seed=3)
    state = packet(sites=tuple(convnet_sites()), step=400, epoch=4)
    command = germinations(first, state)[0]
    first.report(Outcome(command, None, "", 400, 4))
    saved = json.loads(json.dumps(first.state_dict()))
    live(tmp_path / "m.json", 99, {"conv_light": 0.1, "conv_heavy": 0.9})
    second = LearnedPolicy(memory=str(tmp_path / "m.json"), seed=3)
    second.load_state_dict(saved)
    end = packet(sites=tuple(convnet_sites()), epoch=10, step=1000, val_loss_history=(0.5,))
    assert first.decide(end) == second.decide(end)
    first.finish(end)
    second.finish(end)
    episodes = [e for e in second.memory.read() if "seed 3" in e.run_id]
    assert len(episodes) == 1 and f"blueprint {command.blueprint}" in episodes[0].seeds[0]


def test_growth_begins_when_it_has_learnt_to_begin(tmp_path: Path) -> None:
    policy = LearnedPolicy(memory=str(tmp_path / "m.json"))
    policy.start = 0.125
    sites = tuple(convnet_sites())
    assert not germinations(policy, packet(sites=sites, step=100))
    assert germinations(policy, packet(sites=sites, step=130))


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="explore is -1"):
        LearnedPolicy(memory=str(tmp_path / "m.json"), explore=-1.0)

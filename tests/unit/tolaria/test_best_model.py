"""The best model, with its topology, through growth and checkpoints."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from helpers.grown import Grown, batch, make_host
from helpers.runs import germinate, same, seed_command, weights

from esper.leyline import CommandKind, Impact, SeedStage
from esper.tolaria.best_model import BestModel, best_weights
from esper.tolaria.checkpoint import Checkpoint


def output(grown: Grown) -> torch.Tensor:
    with torch.no_grad():
        return grown.model.eval()(batch(6)[0]).clone()


def topology(grown: Grown) -> dict[str, Any]:
    return json.loads(json.dumps(grown.model.topology()))  # type: ignore[no-any-return]


def test_the_best_is_kept_while_training_goes_on() -> None:
    grown = make_host()
    best = BestModel(grown.model)
    grown.train_step(1)
    assert best.consider(1, 1.0, 0.5)
    then = output(grown)
    grown.train_step(2)
    assert not best.consider(2, 1.0, 0.4)
    assert not torch.equal(output(grown), then)
    best.restore()
    assert torch.equal(output(grown), then)


def test_without_a_best_the_model_stays_as_it_is() -> None:
    grown = make_host()
    best = BestModel(grown.model)
    assert not best.consider(1, math.nan, 0.9)
    before = weights(grown.model)
    best.restore()
    assert same(weights(grown.model), before)


@pytest.mark.parametrize("culled", [True, False])
def test_it_comes_back_with_the_seeds_it_had(culled: bool) -> None:
    grown = make_host(blend_steps=0)
    if culled:  # the best one has a seed, the last one has not
        grown.do(germinate("a", "mlp"))
    for step in range(3):
        grown.train_step(step)
    best = BestModel(grown.model)
    best.consider(1, 1.0, 0.5)
    then, was = output(grown), topology(grown)
    command = seed_command(CommandKind.CULL, "a", number=2) if culled else germinate("a", "mlp", number=2)
    grown.do(command, step=3, epoch=1)
    best.topology_changed()
    best.refresh()
    for step in range(3):
        grown.train_step(step)
    assert topology(grown) != was
    best.restore()
    assert torch.equal(output(grown), then)
    assert topology(grown) == was


def test_a_seed_that_is_fossilised_on_the_best_epochs_evidence_is_fossilised_in_it() -> None:
    grown = make_host(blend_steps=0)
    grown.do(germinate("a", "mlp"))
    best = BestModel(grown.model)
    best.consider(1, 1.0, 0.5)
    grown.model.record("a", 0).impact = Impact(0.1, 0.01, 0.0, 100)
    grown.do(seed_command(CommandKind.FOSSILIZE, "a", number=2), step=3, epoch=1)
    best.refresh()
    best.consider(2, 2.0, 0.1)
    best.refresh()  # of an epoch that is not the best: changes nothing
    grown.train_step()
    best.restore()
    assert grown.model.record("a", 0).stage is SeedStage.FOSSILIZED


def test_it_goes_into_a_checkpoint_and_back() -> None:
    grown = make_host(blend_steps=0)
    grown.do(germinate("a", "mlp"))
    grown.train_step()
    best = BestModel(grown.model)
    best.consider(3, 0.5, 0.9)
    then = output(grown)
    saved = copy.deepcopy(best.state_dict())
    other = make_host(blend_steps=0)
    again = BestModel(other.model)
    again.load_state_dict(saved)
    assert again.score.to_json() == best.score.to_json()
    again.restore()
    assert torch.equal(output(other), then)


def checkpoint(best: dict[str, torch.Tensor]) -> Checkpoint:
    from pathlib import Path

    return Checkpoint(
        Path(),
        {},
        {"model": {"w": torch.zeros(1)}, "best": best} if best else {"model": {"w": torch.zeros(1)}},
    )


def test_of_a_checkpoint_the_best_weights_are_taken_and_else_the_saved_ones() -> None:
    assert best_weights(checkpoint({"weights/w": torch.ones(1)})) == {"w": torch.ones(1)}
    assert best_weights(checkpoint({})) == {"w": torch.zeros(1)}

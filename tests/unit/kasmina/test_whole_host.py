"""The host itself as a layer, so that a seed can go past all of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.config import SeedConfig
from esper.errors import GrowthError
from esper.kasmina import MorphableModel, SeedManager, TrainingPosition, fold, match_layers, wrap
from esper.leyline import AdaptationCommand, CommandKind, SeedStage
from esper.models import build

BRANCH = AdaptationCommand(
    "1", CommandKind.GERMINATE, 1.0, 1.0, "test", ".", 0, "conv_branch", "parallel", {"hidden": 4, "depth": 2}
)


def grown() -> tuple[MorphableModel, SeedManager]:
    torch.manual_seed(0)
    model = wrap(build("mlp", num_classes=10, channels=1, image_size=(8, 8), hidden=[4, 4]), [".", "body"])
    model.observe(torch.randn(2, 1, 8, 8))
    manager = SeedManager(model, SeedConfig(blend_steps=0))
    manager.apply(BRANCH, TrainingPosition(0, 0))
    return model, manager


def stir(model: MorphableModel) -> None:
    for parameter in model.seeds.parameters():
        nn.init.normal_(parameter, std=0.1)


def test_only_its_name_selects_it() -> None:
    host = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    assert match_layers(host, ["."]) == ["."]
    assert match_layers(host, [".", "1"]) == [".", "1"]
    assert match_layers(host, ["nn.Sequential", "*"]) == ["0", "1"]
    with pytest.raises(GrowthError) as caught:
        match_layers(host, ["Lineer"])
    assert "Linear" in str(caught.value) and " .," not in str(caught.value)


def test_a_seed_reads_what_the_host_reads_and_adds_to_its_answer() -> None:
    model, _ = grown()
    assert model.site_shape(".", "parallel").in_shape == (1, 8, 8)
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(model(x), model.host.body(x.flatten(1)))
    stir(model)
    seed = model.seed_module(model.record(".", 0))
    assert torch.equal(model.eval()(x), model.host.body(x.flatten(1)) + seed.body(x))


def test_state_and_topology_survive_a_round_trip() -> None:
    model, _ = grown()
    stir(model)
    other = wrap(build("mlp", num_classes=10, channels=1, image_size=(8, 8), hidden=[4, 4]), [".", "body"])
    other.load_state_dict(model.state_dict())
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_it_folds_bit_for_bit_and_can_be_culled() -> None:
    model, manager = grown()
    stir(model)
    record = model.record(".", 0)
    record.stage = SeedStage.FOSSILIZED
    x = torch.randn(5, 1, 8, 8)
    plain = fold(model.eval())
    assert torch.equal(plain(x), model(x)) and not isinstance(plain, MorphableModel)
    record.stage = SeedStage.PROBATIONARY
    manager.apply(AdaptationCommand("2", CommandKind.CULL, 1.0, 1.0, "test", "."), TrainingPosition(1, 1))
    assert not model.alive_records() and model.leaked_hooks(".") == 0
    assert torch.equal(model(x), model.host.body(x.flatten(1)))

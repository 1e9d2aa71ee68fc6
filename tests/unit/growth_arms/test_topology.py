from __future__ import annotations

import random

import pytest
import torch
from growth_arms.tasks import MOST_SEEDS
from growth_arms.topology import LEAST_BUDGET_USED, attach, draw, final_topology, swept
from helpers.packets import candidate as candidate_of
from helpers.packets import packet
from helpers.packets import site as site_of
from torch import nn

from esper.config import MorphogeneticConfig, SeedConfig, TolariaConfig
from esper.kasmina import MorphableModel, SeedManager, get_blueprint, wrap
from esper.leyline import SeedStage, SystemStatePacket
from esper.models import build
from esper.tolaria.growth.state_packet import History, PacketBuilder

IMAGE = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
CATALOGUE = MorphogeneticConfig().blueprints


def host() -> MorphableModel:
    torch.manual_seed(0)
    model = wrap(build("convnet", num_classes=10, channels=1, image_size=(12, 12)), ["block?", "fc"])
    model.observe(IMAGE)
    return model


def offers(model: MorphableModel, ratio: float = 4.0) -> SystemStatePacket:
    config = TolariaConfig(session_name="test")
    config.morphogenetic.blueprints, config.morphogenetic.max_params_ratio = list(CATALOGUE), ratio
    config.optimization.max_epochs = 1
    builder = PacketBuilder(
        SeedManager(model, SeedConfig()),
        config=config,
        steps_per_epoch=1,
        history=History(1),
        on_broken=pytest.fail,
    )
    return builder.build(step=0, epoch=0, train_loss=0.0, health={})


def test_a_final_topology_holds_the_joined_seeds_alone() -> None:
    where = {"layer": "fc", "seed": 0, "blueprint": "mlp", "placement": "series", "options": {"hidden": 8}}
    stages = [SeedStage.CULLED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.FOSSILIZED]
    summary = [where | {"seed": n, "stage": stage.value, "impact": None} for n, stage in enumerate(stages)]
    assert final_topology(summary) == [where | {"seed": 2}, where | {"seed": 3}]


def test_every_blueprint_on_offer_starts_joined_and_awake() -> None:
    """A start from a zero output layer is weaker than one from a random one, and would flatter growth."""
    tried = set()
    for site in offers(host()).sites:
        for candidate in {(c.blueprint, c.placement): c for c in site.candidates}.values():
            model = host().eval()
            before = model(IMAGE)
            seed = {
                "layer": site.layer,
                "seed": 1,
                "blueprint": candidate.blueprint,
                "placement": candidate.placement,
                "options": candidate.options,
            }
            torch.manual_seed(1)
            attach(model, [seed])
            record = model.record(site.layer, 1)
            assert record.stage is SeedStage.FOSSILIZED
            assert model.total_params() == model.host_params() + candidate.params
            assert not torch.equal(model(IMAGE), before)
            tried.add(candidate.blueprint)
    assert {"mlp", "conv_heavy", "conv_light", "depthwise", "low_rank", "squeeze_excite"} <= tried


def test_output_layers_are_drawn_as_their_class_draws_them() -> None:
    seed = {"layer": "fc", "seed": 0, "blueprint": "mlp", "placement": "parallel", "options": {"hidden": 64}}
    outputs = []
    for rng_seed in (1, 1, 2):
        model = host()
        torch.manual_seed(rng_seed)
        attach(model, [seed])
        last = model.seed_module(model.record("fc", 0)).body[-1]
        assert isinstance(last, nn.Linear)
        outputs.append(last.weight.detach())
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert outputs[0].std().item() == pytest.approx(1 / (3 * 64) ** 0.5, rel=0.1)  # uniform in 1 / sqrt(64)


def test_topologies_are_drawn_within_the_room_and_use_half_of_it() -> None:
    model = host()
    round_of = offers(model)
    assert round_of.max_params is not None
    room = round_of.max_params - round_of.params_now
    drawn = [draw(round_of, random.Random(n), None) for n in range(20)]
    for topology in drawn:
        costs = [cost(model, seed)[0] for seed in topology]
        assert LEAST_BUDGET_USED * room <= sum(costs) <= room
        assert 1 <= len(costs) <= MOST_SEEDS
    assert drawn[3] == draw(round_of, random.Random(3), None)
    assert len({str(topology) for topology in drawn}) > 15


def test_no_topology_of_a_sweep_is_tried_twice() -> None:
    three = [candidate_of("conv_heavy", params) for params in (80, 90, 100)]
    tight = packet(sites=(site_of("block2", 1.0, three, slots=(0,)),), params_now=900, max_params=1000)
    drawn = [swept(tight, "tight", n, None)[0]["options"]["hidden"] for n in range(3)]
    assert sorted(drawn) == [80, 90, 100]
    assert drawn[0] == draw(tight, random.Random("tight 0"), None)[0]["options"]["hidden"]
    with pytest.raises(RuntimeError, match="no further topology beside 3"):
        swept(tight, "tight", 3, None)


def test_a_bound_on_flops_holds() -> None:
    model = host()
    limit = 300_000
    drawn = [draw(offers(model), random.Random(n), limit) for n in range(5)]
    assert all(sum(cost(model, seed)[1] for seed in topology) <= limit for topology in drawn)


def test_what_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no topology within -1 FLOPs"):
        draw(packet(sites=(), max_params=None), random.Random(0), -1)


def cost(model: MorphableModel, seed: dict[str, object]) -> tuple[int, int]:
    shape = model.site_shape(str(seed["layer"]), str(seed["placement"]))
    found = get_blueprint(str(seed["blueprint"])).cost(shape, **dict(seed["options"]))  # type: ignore[call-overload]
    return found.params, found.flops

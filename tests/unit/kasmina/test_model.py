from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hosts import (
    HOSTS,
    Encoder,
    batch,
    bits,
    cull,
    fitting,
    fossil,
    germinate,
    growable,
    host,
    same_bits,
    stir,
    targets,
    wrapped,
)
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.profiler import ProfilerActivity, profile

import esper
from esper.config import SeedConfig
from esper.errors import GrowthError
from esper.kasmina import (
    KernelStore,
    MorphableModel,
    SeedManager,
    SiteShape,
    TrainingPosition,
    extract,
    register_blueprint,
    wrap,
)
from esper.leyline import SeedStage

NOW = TrainingPosition(0, 0)


# -- a dormant seed costs nothing ------------------------------------------------------------------


def train_and_eval(model: nn.Module, name: str) -> dict[str, Tensor]:
    """What three steps of training and two ways of evaluation leave behind."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found: dict[str, Tensor] = {}
    for step in range(3):
        model.train()
        output = model(batch(name, seed=step))
        nn.functional.cross_entropy(output, targets(seed=step)).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            found[f"plain {step}"] = model(batch(name, seed=step))
        found |= {f"train {step}": output.detach(), f"grad {step}": model(batch(name, seed=step)).detach()}
    found["generator"] = torch.get_rng_state()
    return found


@pytest.mark.parametrize("name", HOSTS)
def test_a_dormant_model_is_the_bare_one_bit_for_bit(name: str) -> None:
    """Outputs and running statistics, training and evaluation."""
    bare, grown = host(name, 0.3), wrapped(name, 0.3)
    assert same_bits(train_and_eval(bare, name), train_and_eval(grown, name))
    assert same_bits(bits(bare), bits(grown.host))


def operators(model: nn.Module, x: Tensor, train: bool) -> list[str]:
    model.train(train)
    model.zero_grad()
    with profile(activities=[ProfilerActivity.CPU]) as profiler, torch.set_grad_enabled(train):
        answer = model(x)
        if train:
            answer.sum().backward()
    return [event.name for event in profiler.events()]


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("train", [True, False])
def test_the_profiler_sees_the_bare_model_s_operators(name: str, train: bool) -> None:
    """Again once a seed has come and gone."""
    bare = operators(host(name), batch(name), train)
    assert len(bare) > 5
    model, manager = growable(name)
    assert operators(model, batch(name), train) == bare
    layer = next(iter(model.sites))
    manager.apply(germinate(layer, "low_rank"), NOW)
    assert operators(model, batch(name), train) != bare
    manager.apply(cull(layer), NOW)
    assert operators(model, batch(name), train) == bare


def test_a_dormant_slot_is_a_record_and_no_module() -> None:
    model = wrapped("convnet")
    assert [m for m in model.modules() if m is not model.seeds][1:] == list(model.host.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert sum(p.numel() for p in model.parameters()) == model.host_params() == model.total_params()


# -- wrap ------------------------------------------------------------------------------------------


def test_the_users_model_is_untouched() -> None:
    """`preserve_original`."""
    mine = host("convnet")
    before = bits(mine)
    model = esper.wrap(mine, ["fc"])
    model.observe(batch("convnet"))
    SeedManager(model, SeedConfig()).apply(germinate("fc", "mlp"), NOW)
    stir(model)
    assert model.host is not mine and same_bits(before, bits(mine))
    assert not any(m._forward_hooks for m in mine.modules())


def test_on_request_the_users_model_itself_is_grown() -> None:
    mine = host("convnet")
    assert wrap(mine, ["fc"], preserve_original=False).host is mine


def test_linear_layers_are_the_default_with_four_slots_each() -> None:
    model = wrap(host("mlp"))
    assert model.get_layer_names() == ["body.fc1", "body.fc2", "body.fc3"]
    assert model.get_model_stats()["total_seeds"] == 12
    chunks = [record.chunk_id for row in model.records.values() for record in row]
    assert chunks == list(range(12))


@pytest.mark.parametrize("slots", [0, -1])
def test_a_layer_has_at_least_one_slot(slots: int) -> None:
    with pytest.raises(GrowthError, match=f"seeds_per_layer is {slots}; it must be at least 1"):
        wrap(host("mlp"), seeds_per_layer=slots)


def test_wrapping_moves_no_generator() -> None:
    """Row 27."""
    mine = host("convnet")
    before = torch.get_rng_state()
    model = wrap(mine, ["block?"])
    model.observe(batch("convnet"))
    manager = SeedManager(model, SeedConfig())
    for layer, blueprint in (("block1", "conv_heavy"), ("block2", "noise")):
        manager.apply(germinate(layer, blueprint), NOW)
    assert torch.equal(before, torch.get_rng_state())


def test_new_weights_follow_from_seed_slot_and_step_alone() -> None:
    """The same weights on every rank."""

    def germinated(seed: int, index: int, step: int) -> Tensor:
        model = wrap(host("mlp"), ["body.fc1"], seed=seed)
        model.observe(batch("mlp"))
        torch.manual_seed(next(draws))
        change = SeedManager(model, SeedConfig()).apply(
            germinate("body.fc1", "mlp", index=index), TrainingPosition(step, 0)
        )
        return change.added[0][1].body[1].weight.detach()

    draws = itertools.count()
    one = germinated(0, 0, 0)
    assert torch.equal(one, germinated(0, 0, 0))
    assert not any(torch.equal(one, germinated(*other)) for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


# -- what a model says -----------------------------------------------------------------------------


def test_stats_count_slots_seeds_and_calls() -> None:
    model, manager = growable("convnet", blend_steps=4)
    model(batch("convnet"))
    assert model.get_model_stats() == {
        "total_seeds": 8,
        "active_seeds": 0,
        "morphogenetic_active": False,
        "total_forward_calls": 1,
        "total_kernel_executions": 0,
    }
    manager.apply(germinate("block1", "conv_heavy"), NOW)
    manager.apply(germinate("fc", "mlp"), NOW)
    model(batch("convnet"))
    model(batch("convnet"))
    stats = model.get_model_stats()
    assert (stats["active_seeds"], stats["morphogenetic_active"]) == (2, True)
    assert (stats["total_forward_calls"], stats["total_kernel_executions"]) == (3, 4)


def test_an_isolated_seed_executes_no_kernel() -> None:
    model, manager = growable("convnet", isolation_steps=9)
    manager.apply(germinate("block1", "conv_heavy"), NOW)
    model(batch("convnet"))
    assert model.get_model_stats()["total_kernel_executions"] == 0


def test_the_summary_tells_sites_and_seeds() -> None:
    model, manager = growable("convnet")
    manager.apply(germinate("block1", "conv_heavy", hidden=4), NOW)
    text = model.summary()
    assert f"ConvNet: {model.host_params():,} parameters, now {model.total_params():,}" in text
    assert "block1: 2 slots, output 4x8x8" in text
    assert "seed 0: blending, conv_heavy (series), 296 parameters" in text
    assert model.total_params() - model.host_params() == 296
    assert "output not seen yet" in wrap(host("convnet"), ["fc"]).summary()


@pytest.mark.parametrize(
    ("layer", "index", "problem"),
    [
        ("nowhere", 0, "no seeds can be attached to 'nowhere'; layers: block1, block2, block2.0, fc"),
        ("fc", 2, "layer 'fc' has seed slots 0 to 1, not 2"),
        ("fc", -1, "layer 'fc' has seed slots 0 to 1, not -1"),
    ],
)
def test_an_unknown_slot_is_named(layer: str, index: int, problem: str) -> None:
    with pytest.raises(GrowthError, match=problem):
        wrapped("convnet").record(layer, index)


def test_an_unknown_placement_or_layer_is_named() -> None:
    with pytest.raises(GrowthError, match="placement is 'beside'; it must be 'series' or 'parallel'"):
        wrapped("convnet").site_shape("fc", "beside")
    with pytest.raises(GrowthError, match="no seeds can be attached to 'nowhere'"):
        wrapped("convnet").site_shape("nowhere", "series")


# -- the state dict --------------------------------------------------------------------------------


def grown(name: str, **config: Any) -> tuple[MorphableModel, SeedManager]:
    """Every site with a seed in some stage, and weights as after a while."""
    model, manager = growable(name, **{"blend_steps": 5} | config)
    for number, (layer, placement, blueprint) in enumerate(fitting(model)):
        record = model.record(layer, number % 2)
        if record.stage is SeedStage.DORMANT and blueprint != "noise":
            manager.config.isolation_steps = 100 * (number % 3 == 1)
            manager.apply(germinate(layer, blueprint, placement, record.index), TrainingPosition(number, 0))
            manager.tick()
    stir(model)
    model.train()
    model(batch(name))
    return model, manager


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("mode", ["additive", "gated"])
def test_a_grown_model_round_trips_into_a_fresh_one(name: str, mode: str) -> None:
    """Topology, weights, buffers and stages, bit for bit."""
    model, _ = grown(name, blend_mode=mode)
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    assert all(isinstance(value, Tensor) for value in saved.values())
    fresh = wrap(HOSTS[name].make(0.0), HOSTS[name].layers, seeds_per_layer=2, seed=99)
    fresh.load_state_dict(saved)
    assert same_bits(bits(model), bits(fresh))
    assert model.topology() == fresh.topology() and model.records == fresh.records
    assert model.get_model_stats()["active_seeds"] == fresh.get_model_stats()["active_seeds"] > 1
    for module in (model, fresh):
        module.eval()
    assert torch.equal(model(batch(name, seed=4)), fresh(batch(name, seed=4)))


def test_loading_plants_exactly_what_was_saved() -> None:
    """Also over seeds, culled slots and embargoes of its own."""
    source, _ = growable("convnet")
    model, manager = growable("convnet", isolation_steps=3)
    manager.apply(germinate("block1", "conv_heavy"), NOW)
    manager.apply(germinate("fc", "mlp", index=1), NOW)
    manager.apply(cull("fc", 1), NOW)
    manager.embargo(model.record("fc", 1), 0, NOW)
    model.load_state_dict(source.state_dict())
    assert model.alive_records() == [] and len(model.seeds) == 0 and model.records == source.records
    assert not any(m._forward_hooks for m in model.modules())


def test_statistics_of_a_bfloat16_seed_survive() -> None:
    model, _ = growable("mlp", isolation_steps=5)
    manager = SeedManager(model.bfloat16(), SeedConfig(isolation_steps=5))
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    model.seeds["body/fc1#0"].stats.fill_(1001.0)
    fresh = wrapped("mlp").bfloat16()
    fresh.load_state_dict(model.state_dict())
    assert same_bits(bits(model), bits(fresh))
    assert fresh.seeds["body/fc1#0"].stats.dtype is torch.float32


def edited(model: MorphableModel, **changes: Any) -> dict[str, Any]:
    topology = model.topology() | changes
    state = model.state_dict()
    state["_extra_state"] = torch.frombuffer(bytearray(json.dumps(topology).encode()), dtype=torch.uint8)
    return state


def record_with(**changes: Any) -> dict[str, Any]:
    model, manager = growable("convnet", isolation_steps=3)
    manager.apply(germinate("fc", "mlp"), NOW)
    (data,) = model.topology()["seeds"]
    return data | changes


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": 2}, "topology format 2 is not 1"),
        ({"layers": {"fc": 1}}, r"the saved model has seed slots \{'fc': 1\}, this one has"),
        ({"seeds": [record_with(blueprint="mpl")]}, "unknown blueprint: 'mpl'. Did you mean 'mlp'"),
        ({"seeds": [record_with(layer="nowhere")]}, "no seeds can be attached to 'nowhere'"),
        ({"seeds": [record_with(index=7)]}, "seed slots 0 to 1, not 7"),
        ({"seeds": [record_with(stage="asleep")]}, "the saved topology is damaged: ValueError: 'asleep'"),
        ({"seeds": [record_with(options={"hiden": 4})]}, "Did you mean 'hidden'"),
        ({"seeds": [record_with(layout="conv3d")]}, "unknown layout 'conv3d'"),
        ({"seeds": [{}]}, "the saved topology is damaged: ValueError: .* lacks chunk_id, index"),
        ({"seeds": [3]}, "the saved topology is damaged: TypeError"),
        ({"seeds": None}, "the saved topology is damaged: TypeError"),
        ({"sites": {}}, "the saved topology is damaged: KeyError: 'block1'"),
    ],
)
def test_a_bad_topology_is_refused_and_nothing_changes(changes: dict[str, Any], problem: str) -> None:
    model, manager = growable("convnet", isolation_steps=3)
    manager.apply(germinate("block1", "conv_heavy"), NOW)
    before, topology, seed = bits(model), model.topology(), model.seeds["block1#0"]
    with pytest.raises(GrowthError, match=problem):
        model.load_state_dict(edited(model, **changes))
    assert same_bits(before, bits(model)) and model.topology() == topology
    assert model.seeds["block1#0"] is seed


@pytest.mark.parametrize("damaged", [b"", b"{", b"[1]", b"\xff\xfe", b"3"])
def test_a_topology_that_is_no_json_object_is_refused(damaged: bytes) -> None:
    model = wrapped("convnet")
    state = model.state_dict()
    state["_extra_state"] = torch.tensor(list(damaged), dtype=torch.uint8)
    with pytest.raises(GrowthError, match="the saved topology is"):
        model.load_state_dict(state)


def test_tensors_that_do_not_fit_are_torch_s_own_error() -> None:
    source, _ = grown("convnet")
    state = source.state_dict()
    key = next(key for key in state if key.startswith("seeds.") and key.endswith("weight"))
    state[key] = torch.zeros(3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        wrapped("convnet").load_state_dict(state)
    del state[key]
    with pytest.raises(RuntimeError, match="Missing key"):
        wrapped("convnet").load_state_dict(state)


# -- copies and compilation ------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTS)
def test_a_copy_lives_on_its_own(name: str) -> None:
    """Deep-copyable; uprooting in the copy does not touch the original, nor the other way round."""
    model, _ = grown(name)
    model.eval()
    x = batch(name, seed=2)
    answer, topology = model(x), model.topology()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), answer) and twin.topology() == topology
    for record in twin.alive_records():
        twin.records[record.layer][record.index] = record.cleared()
        twin.detach(record)
    stir(twin.host)
    assert not any(m._forward_hooks for m in twin.modules())
    assert torch.equal(model(x), answer) and model.topology() == topology
    other = copy.deepcopy(model)
    stir(model.seeds)
    assert torch.equal(other(x), answer)
    assert not torch.equal(model(x), answer)


def test_a_copy_goes_on_growing_by_itself() -> None:
    model, manager = growable("convnet", blend_steps=4)
    manager.apply(germinate("block1", "conv_heavy"), NOW)
    twin = copy.deepcopy(model)
    beside = SeedManager(twin, manager.config)
    beside.load_state_dict(manager.state_dict())
    beside.apply(germinate("fc", "mlp"), NOW)
    beside.tick()
    assert twin.seeds["block1#0"].alpha > 0 == model.seeds["block1#0"].alpha
    assert [r.layer for r in twin.alive_records()] == ["block1", "fc"] and [
        r.layer for r in model.alive_records()
    ] == ["block1"]
    manager.tick()
    manager.apply(cull("block1"), NOW)
    assert manager.blends["block1#0"].reversed and not beside.blends["block1#0"].reversed


def test_a_tick_recompiles_nothing_and_a_structural_event_once() -> None:
    """Alpha is a buffer, not a number in the graph."""
    model, manager = growable("convnet", blend_steps=6)
    torch.compiler.reset()
    counter = CompileCounter()
    model.compile(backend=counter, fullgraph=True, dynamic=False)
    model(batch("convnet"))
    assert counter.frame_count == 1
    manager.apply(germinate("block1", "conv_heavy"), NOW)
    stir(model.seeds)
    torch.compiler.reset()
    answers = []
    for _ in range(7):
        answers.append(model(batch("convnet")))
        manager.tick()
    assert counter.frame_count == 2
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(answers))
    eager = model.forward(batch("convnet"))
    assert torch.equal(eager, model(batch("convnet")))
    torch.compiler.reset()


def test_compiling_in_place_renames_nothing() -> None:
    """`module.compile()`."""
    model = wrapped("convnet")
    before = list(model.state_dict())
    model.compile(backend="eager")
    assert list(model.state_dict()) == before


# -- transformer encoders ------------------------------------------------------------------------


def padded() -> tuple[Tensor, Tensor]:
    return batch("encoder"), torch.arange(5)[None] >= torch.tensor([5, 3, 4, 5, 2, 1])[:, None]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layer", ["encoder.layers.0", "encoder.layers.1.linear2", "encoder"])
def test_an_encoder_with_padding_can_grow_and_is_as_before_after_a_cull(layer: str) -> None:
    """Its fused path makes nested tensors, which the layers that hooks are hung at do not take."""
    torch.manual_seed(0)
    model = wrap(Encoder(0.0), [layer])
    model.observe(*padded())
    model.eval()
    with torch.no_grad():
        before = model(*padded())
    manager = SeedManager(model, SeedConfig())
    manager.apply(germinate(layer, "squeeze_excite"), NOW)
    manager.tick()
    stir(model.seeds)
    with torch.no_grad():
        assert torch.isfinite(model(*padded())).all()
    copy.deepcopy(model)(*padded())
    manager.apply(cull(layer), NOW)
    while not manager.tick():
        pass
    manager.advance(NOW)
    with torch.no_grad():
        assert torch.equal(model(*padded()), before)
    assert model.host.encoder.use_nested_tensor


# -- kernels -------------------------------------------------------------------------------------


def test_a_kernel_can_be_loaded_into_a_dormant_slot(tmp_path: Path) -> None:
    """Load_kernel(layer, seed_index, artifact_id)."""
    source, manager = growable("convnet")
    record = fossil(manager, germinate("block1", "conv_heavy", hidden=4))
    store = KernelStore(tmp_path)
    artifact = store.put(*extract(source, "block1", 0))
    model = wrap(host("convnet"), HOSTS["convnet"].layers, kernels=store)
    model.observe(batch("convnet"))
    model.load_kernel("block1", 2, artifact)
    loaded = model.record("block1", 2)
    assert (loaded.stage, loaded.params, loaded.blueprint) == (
        SeedStage.FOSSILIZED,
        record.params,
        "conv_heavy",
    )
    for it in (source, model):
        it.eval()
    assert torch.equal(source(batch("convnet")), model(batch("convnet")))
    assert not torch.equal(host("convnet").eval()(batch("convnet")), model(batch("convnet")))


def test_without_a_source_there_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(GrowthError, match=r"no kernel source: pass wrap\(\.\.\., kernels=KernelStore"):
        wrapped("convnet").load_kernel("fc", 0, "0" * 64)
    model = wrapped("convnet", kernels=KernelStore(tmp_path))
    with pytest.raises(GrowthError, match="there is no kernel 000"):
        model.load_kernel("fc", 0, "0" * 64)
    assert model.alive_records() == []


def test_a_users_blueprint_that_fails_on_loading_changes_nothing() -> None:
    broken = False

    @register_blueprint("test_moody")
    def moody(shape: SiteShape) -> nn.Module:
        """Builds, until it does not."""
        if broken:
            raise KeyError("moody")
        return nn.Identity()

    source, manager = growable("mlp")
    manager.apply(germinate("body.fc1", "test_moody"), NOW)
    state, broken = source.state_dict(), True
    fresh = wrapped("mlp")
    with pytest.raises(GrowthError, match="the saved topology is damaged: KeyError: 'moody'"):
        fresh.load_state_dict(state)
    assert fresh.alive_records() == []

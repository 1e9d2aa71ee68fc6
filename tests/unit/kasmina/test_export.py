from __future__ import annotations

import copy

import pytest
import torch
from helpers.hosts import (
    HOSTS,
    batch,
    bits,
    fitting,
    fossil,
    germinate,
    growable,
    host,
    same_bits,
    stir,
    wrapped,
)
from torch import nn

from esper.errors import GrowthError
from esper.kasmina import MorphableModel, SeedManager, TrainingPosition, fold, fold_with_names
from esper.kasmina.seed import Seed


def overgrown(name: str) -> tuple[MorphableModel, SeedManager]:
    """Two fossilised seeds at every site, in both placements and modes where they fit."""
    model, manager = growable(name, dropout=0.3)
    taken: set[tuple[str, str]] = set()
    for number, (layer, placement, blueprint) in enumerate(fitting(model)):
        if blueprint not in ("noise", "no_op") and (layer, placement) not in taken:
            manager.config.blend_mode = ("additive", "gated")[number % 2]
            index = sum(where == layer for where, _ in taken)
            fossil(manager, germinate(layer, blueprint, placement, index))
            taken.add((layer, placement))
    assert {placement for _, placement in taken} == {"series", "parallel"}
    return model, manager


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_a_folded_model_answers_bit_for_bit(name: str, train: bool, grad: bool) -> None:
    """Parallel, series and gated, tuples, nested sites, modules called twice and under two names."""
    model, _ = overgrown(name)
    model.train(train)
    plain, bare = fold(model), host(name, 0.3).train(train)
    with torch.set_grad_enabled(grad):
        for number in range(2):
            torch.manual_seed(number)
            wanted = model(batch(name, seed=number))
            torch.manual_seed(number)
            assert torch.equal(plain(batch(name, seed=number)), wanted)
            torch.manual_seed(number)
            assert not torch.equal(bare(batch(name, seed=number)), wanted)


@pytest.mark.parametrize("layer", ["encoder.layers.0", "encoder.layers.1.linear1"])
def test_a_folded_encoder_takes_padding(layer: str) -> None:
    """Nothing in it may go past the grown layer, nor hand it nested tensors."""
    model, manager = growable("encoder")
    fossil(manager, germinate(layer, "squeeze_excite"))
    model.eval()
    padding = torch.arange(5)[None] >= torch.tensor([5, 3, 4, 5, 2, 1])[:, None]
    with torch.no_grad():
        assert torch.equal(fold(model)(batch("encoder"), padding), model(batch("encoder"), padding))


@pytest.mark.parametrize("name", HOSTS)
def test_it_is_a_plain_module_with_all_parameters(name: str) -> None:
    """No hook, no seed, no alpha; and it trains on."""
    model, _ = overgrown(name)
    plain = fold(model)
    assert not isinstance(plain, MorphableModel)
    assert not any(isinstance(m, Seed) or m._forward_hooks for m in plain.modules())
    assert not any("alpha" in buffer or "stats" in buffer for buffer, _ in plain.named_buffers())
    assert sum(p.numel() for p in plain.parameters()) == model.total_params()
    plain(batch(name)).square().mean().backward()
    assert sum(p.grad is not None for p in plain.parameters()) == len(list(plain.parameters()))


@pytest.mark.parametrize("name", HOSTS)
def test_the_grown_model_is_left_as_it_was(name: str) -> None:
    model, _ = overgrown(name)
    before, topology = bits(model), model.topology()
    plain = fold(model)
    stir(plain)
    assert same_bits(before, bits(model)) and model.topology() == topology
    assert sum(len(m._forward_hooks) for m in model.modules()) == len(
        {r.layer for r in model.alive_records()}
    )


def test_without_seeds_it_is_a_copy_of_the_host() -> None:
    model = wrapped("convnet")
    plain = fold(model)
    assert plain is not model.host and same_bits(bits(plain), bits(model.host))


def test_seeds_on_their_way_are_named() -> None:
    model, manager = growable("convnet", isolation_steps=9)
    manager.apply(germinate("block1", "conv_heavy"), TrainingPosition(0, 0))
    fossil(manager, germinate("fc", "mlp"))
    with pytest.raises(GrowthError, match=r"still on their way: block1 seed 0 \(training\)$"):
        fold(model)


def test_a_folded_layer_answers_for_the_layer_inside() -> None:
    """A host may read what its layers are."""
    model, manager = growable("convnet")
    fossil(manager, germinate("fc", "mlp"))
    folded = fold(model).fc
    assert folded.in_features == 8 and folded.weight is folded.layer.weight
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        folded.colour  # noqa: B018
    assert isinstance(copy.deepcopy(folded).layer, nn.Linear)


def test_modes_are_kept() -> None:
    model, manager = growable("convnet")
    fossil(manager, germinate("fc", "mlp"))
    assert all(m.training for m in fold(model.train()).modules())
    assert not any(m.training for m in fold(model.eval()).modules())


@pytest.mark.parametrize("name", HOSTS)
def test_every_parameter_of_the_grown_model_has_its_copy_in_the_plain_one(name: str) -> None:
    """What is kept by parameter can follow a fold; gates and seeds in both placements included."""
    model, _ = overgrown(name)
    grown = dict(model.named_parameters())
    plain, names = fold_with_names(model)
    copies = dict(plain.named_parameters())
    assert names.keys() == grown.keys()
    assert sorted(names.values()) == sorted(copies)
    for old, new in names.items():
        assert torch.equal(grown[old], copies[new])
        assert grown[old] is not copies[new]
        assert grown[old].requires_grad == copies[new].requires_grad

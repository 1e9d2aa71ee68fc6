from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hosts import batch, bits, fossil, germinate, growable, same_bits, stir, wrapped
from torch import nn

from esper.errors import GrowthError
from esper.kasmina import KernelStore, MorphableModel, TrainingPosition, extract
from esper.kasmina.kernels import Kernel
from esper.kasmina.load_kernel import DESCRIPTION, load_kernel
from esper.leyline import SeedStage


def kernel(
    layer: str = "block1", blueprint: str = "conv_heavy", mode: str = "additive"
) -> tuple[MorphableModel, Kernel]:
    model, manager = growable("convnet", blend_mode=mode)
    fossil(manager, germinate(layer, blueprint, hidden=4))
    return model, extract(model, layer, 0)


@pytest.mark.parametrize("mode", ["additive", "gated"])
def test_a_seed_moves_to_another_model(mode: str, tmp_path: Path) -> None:
    """The same answers, bit for bit, in another slot."""
    source, taken = kernel(mode=mode)
    store = KernelStore(tmp_path)
    model = wrapped("convnet")
    load_kernel(model, "block1", 1, store.fetch(store.put(*taken)))
    record = model.record("block1", 1)
    assert (record.stage, record.blueprint, record.blend_mode) == (SeedStage.FOSSILIZED, "conv_heavy", mode)
    for module in (source, model):
        module.eval()
    assert torch.equal(source(batch("convnet")), model(batch("convnet")))


def test_what_was_taken_is_a_copy() -> None:
    source, (tensors, description) = kernel()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    stir(source.seeds)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors.items())
    assert tuple(description) == DESCRIPTION


def test_a_seed_that_is_not_yet_blended_in_is_implanted_at_full_strength() -> None:
    model, manager = growable("convnet", isolation_steps=9)
    manager.apply(germinate("block1", "conv_heavy"), TrainingPosition(0, 0))
    fresh = wrapped("convnet")
    load_kernel(fresh, "block1", 0, extract(model, "block1", 0))
    assert fresh.seeds["block1#0"].alpha == 1.0 and fresh.seeds["block1#0"].joined


def test_from_an_empty_slot_there_is_nothing_to_take() -> None:
    with pytest.raises(GrowthError, match="slot 0 of 'fc' is dormant: there is no kernel to take"):
        extract(wrapped("convnet"), "fc", 0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"placement": None}, "the kernel's description lacks placement$"),
        ({"options": None, "layout": None}, "the kernel's description lacks options, layout$"),
        ({"placement": "beside"}, "placement is 'beside'"),
        ({"out_shape": 3}, "the kernel's description is damaged: "),
        (
            {"out_shape": [9, 8, 8]},
            r"grown for conv2d \(4, 8, 8\) -> \(9, 8, 8\); 'block1' has conv2d \(4, 8, 8\)",
        ),
        ({"layout": "features"}, "grown for features"),
        ({"blueprint": "conv_heavi"}, "does not fit blueprint 'conv_heavi': unknown blueprint"),
        ({"options": {"hiden": 3}}, "does not fit blueprint 'conv_heavy': .*'hiden'"),
        ({"options": {"hidden": 8}}, "does not fit blueprint 'conv_heavy': .*size mismatch"),
        ({"options": [1]}, "does not fit blueprint 'conv_heavy'"),
        ({"blend_mode": "gated"}, "does not fit blueprint 'conv_heavy': .*Missing key.*gate"),
    ],
)
def test_a_kernel_that_does_not_fit_changes_nothing(change: dict[str, Any], problem: str) -> None:
    """Shapes, options and incomplete descriptions."""
    _, (tensors, description) = kernel()
    wrong = {name: value for name, value in (description | change).items() if value is not None}
    model = wrapped("convnet")
    before, records = bits(model), model.topology()
    with pytest.raises(GrowthError, match=f"(?s){problem}"):
        load_kernel(model, "block1", 0, (tensors, wrong))
    assert same_bits(before, bits(model)) and model.topology() == records
    assert not any(m._forward_hooks for m in model.modules())


def test_missing_tensors_and_other_layers_are_refused() -> None:
    _, (tensors, description) = kernel()
    model = wrapped("convnet")
    del tensors["body.0.weight"]
    with pytest.raises(GrowthError, match=r"(?s)does not fit .*body\.0\.weight"):
        load_kernel(model, "block1", 0, (tensors, description))
    with pytest.raises(GrowthError, match=r"'block2' has conv2d \(8, 4, 4\)"):
        load_kernel(model, "block2", 0, (tensors, description))
    with pytest.raises(GrowthError, match="no seeds can be attached to 'nowhere'"):
        load_kernel(model, "nowhere", 0, (tensors, description))


def test_a_slot_that_is_taken_is_not_overwritten() -> None:
    source, taken = kernel()
    before = bits(source)
    with pytest.raises(GrowthError, match="slot 0 of 'block1' is fossilized, not dormant"):
        load_kernel(source, "block1", 0, taken)
    assert same_bits(before, bits(source))


def test_before_any_batch_the_shapes_are_not_known() -> None:
    from esper.kasmina import wrap

    _, taken = kernel()
    model = wrap(nn.Sequential(nn.Conv2d(4, 4, 1)), ["0"])
    with pytest.raises(GrowthError, match="layer '0' cannot host a seed: no batch has passed"):
        load_kernel(model, "0", 0, taken)

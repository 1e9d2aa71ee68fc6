from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.hosts import HOSTS, Pair, batch, bits, germinate, growable, host, same_bits, stir
from torch import Tensor, nn

from esper.errors import GrowthError
from esper.kasmina import TrainingPosition, match_layers, wrap
from esper.kasmina.target_layers import first_tensor, main_output, probe_mode, with_main_output


class Linear(nn.Module):
    """Somebody's own layer, of a name that torch has, too."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Special(nn.Linear):
    pass


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = Linear()
        self.plain = nn.Linear(4, 4)
        self.special = Special(4, 4)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Sequential(nn.Conv1d(1, 2, 3))
        )
        self.attn = nn.MultiheadAttention(4, 2)


@pytest.mark.parametrize(
    ("target", "layers"),
    [
        (nn.Linear, ["plain", "special"]),
        ("nn.Linear", ["plain", "special"]),
        ("torch.nn.Linear", ["plain", "special"]),
        ("Linear", ["own", "plain", "special"]),
        (Special, ["special"]),
        ("Special", ["special"]),
        ("my.package.Special", ["special"]),
        ("blocks.?", ["blocks.0", "blocks.1"]),
        ("blocks.*.0", ["blocks.0.0", "blocks.1.0"]),
        ("**.0", ["blocks.0", "blocks.0.0", "blocks.1.0"]),
        ("blocks.**", ["blocks", "blocks.0", "blocks.0.0", "blocks.0.1", "blocks.1", "blocks.1.0"]),
        ("pl*", ["plain"]),
        ("MultiheadAttention", ["attn"]),
    ],
)
def test_targets_are_types_names_or_patterns(target: Any, layers: list[str]) -> None:
    """What attention never calls as a module (its out_proj) is no layer."""
    assert match_layers(Mixed(), [target]) == layers


def test_several_targets_are_joined_in_the_order_of_the_model() -> None:
    assert match_layers(Mixed(), ["special", nn.Conv2d, "own", "special"]) == ["own", "special", "blocks.0.0"]


@pytest.mark.parametrize(
    ("target", "nearest"),
    [("nn.Liner", "Linear"), ("block", "blocks"), ("plian", "plain"), ("Sequentail", "Sequential")],
)
def test_what_matches_nothing_is_named_with_the_nearest(target: str, nearest: str) -> None:
    """An error that lists what there is."""
    with pytest.raises(GrowthError) as caught:
        match_layers(Mixed(), ["plain", target])
    text = str(caught.value)
    assert f"target layer {target!r} matches nothing. Did you mean {nearest!r}?" in text
    assert "Layers: own, plain, special, blocks, blocks.0," in text
    assert "Conv1d, Conv2d, Linear, MultiheadAttention, ReLU, Sequential, Special" in text


def test_a_class_that_matches_nothing_is_named() -> None:
    with pytest.raises(GrowthError, match="target layer 'Conv3d' matches nothing"):
        match_layers(Mixed(), [nn.Conv3d])


def test_the_list_of_a_deep_model_is_cut() -> None:
    with pytest.raises(GrowthError, match=r"19 and 30 more\. Types: Linear\."):
        match_layers(nn.Sequential(*(nn.Linear(1, 1) for _ in range(50))), ["nothing"])


def test_no_target_at_all_is_an_error() -> None:
    with pytest.raises(GrowthError, match="target_layers is empty"):
        match_layers(Mixed(), [])


# -- what flows ----------------------------------------------------------------------------------


def test_the_first_floating_tensor_is_a_layer_s_input() -> None:
    x, ids = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    assert first_tensor((ids, x), {}) is x
    assert first_tensor((None,), {"ids": ids, "x": x}) is x
    assert first_tensor((ids,), {"flag": True}) is None


@pytest.mark.parametrize("kind", [tuple, list, lambda items: Pair(*items)])
def test_the_main_output_is_the_first_and_can_be_replaced(kind: Any) -> None:
    output = kind([torch.zeros(2, 3), torch.ones(2)])
    assert main_output(output) is output[0]
    new = with_main_output(output, torch.full((2, 3), 7.0))
    assert type(new) is type(output)
    assert new[0][0, 0] == 7.0 and new[1] is output[1]


@pytest.mark.parametrize("output", [None, (), {"a": torch.zeros(2)}, torch.zeros(2, dtype=torch.long), (3,)])
def test_what_is_no_tensor_of_features_is_no_main_output(output: Any) -> None:
    assert main_output(output) is None


# -- shapes --------------------------------------------------------------------------------------


class Lambda(nn.Module):
    def __init__(self, make: Any, *inner: nn.Module) -> None:
        super().__init__()
        self.make = make
        self.inner = nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


def site(layer: nn.Module, x: Tensor) -> Any:
    model = wrap(nn.Sequential(layer), ["0"])
    model.observe(x)
    return model.sites["0"]


@pytest.mark.parametrize(
    ("layer", "shape", "layout", "out_shape"),
    [
        (nn.Linear(4, 3), (4,), "features", (3,)),
        (nn.Linear(4, 3), (5, 4), "features", (5, 3)),
        (nn.Linear(4, 3), (2, 5, 4), "features", (2, 5, 3)),
        (nn.LayerNorm(4), (2, 5, 4), "features", (2, 5, 4)),
        (nn.Conv1d(4, 3, 1), (4, 5), "conv1d", (3, 5)),
        (nn.BatchNorm1d(4), (4, 5), "conv1d", (4, 5)),
        (nn.BatchNorm1d(4), (4,), "features", (4,)),
        (nn.Conv2d(4, 3, 1), (4, 5, 6), "conv2d", (3, 5, 6)),
        (nn.BatchNorm2d(4), (4, 5, 6), "conv2d", (4, 5, 6)),
        (nn.ReLU(), (4, 5, 6), "conv2d", (4, 5, 6)),
        (nn.Sequential(nn.Conv2d(4, 3, 1), nn.Flatten()), (4, 5, 6), "features", (90,)),
        (nn.Sequential(nn.Conv1d(4, 3, 1), nn.ReLU()), (4, 5), "conv1d", (3, 5)),
        (nn.Sequential(nn.Linear(4, 3), nn.GELU()), (5, 4), "features", (5, 3)),
        # attention in windows: (batch, height, width, features)
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), (5, 6, 4), "features", (5, 6, 3)),
    ],
)
def test_layouts_follow_from_layer_and_output(
    layer: nn.Module, shape: tuple[int, ...], layout: str, out_shape: tuple[int, ...]
) -> None:
    """Linear, convolutions, attention and whole blocks."""
    seen = site(layer, torch.randn(7, *shape))
    assert (seen.usable, seen.layout, seen.in_shape, seen.out_shape) == (True, layout, shape, out_shape)


@pytest.mark.parametrize(
    ("layer", "x", "problem"),
    [
        (Lambda(lambda x: {"a": x}), torch.randn(3, 4), "its output is a dict, not a batch"),
        (Lambda(lambda x: x.sum()), torch.randn(3, 4), r"its output is a tensor \(\), not a batch"),
        (Lambda(lambda x: x.argmax(1)), torch.randn(3, 4), "its output is a Tensor, not a batch"),
        (Lambda(lambda x: None), torch.randn(3, 4), "its output is a NoneType, not a batch"),
        (nn.Conv3d(1, 2, 1), torch.randn(3, 1, 2, 2, 2), "in one and two dimensions, and this one has three"),
        (
            Lambda(lambda x: x.transpose(0, 1)),
            torch.randn(3, 4, 5),
            "batch on the second axis: .* batch_first=True",
        ),
    ],
)
def test_a_layer_that_cannot_bear_a_seed_says_why(layer: nn.Module, x: Tensor, problem: str) -> None:
    model = wrap(nn.Sequential(layer), ["0"])
    model.observe(x)
    with pytest.raises(GrowthError, match=f"layer '0' cannot host a seed: .*{problem}"):
        model.site_shape("0", "series")


@pytest.mark.parametrize("size", [3, 5])
def test_sequences_first_would_mix_samples_and_are_refused(size: int) -> None:
    """A seed that attends would look at other samples; also where length and batch are equal by chance."""
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(8, 2, 16)
    model = wrap(attention, ["self_attn", "linear1"])
    model.observe(torch.randn(3, size, 8))
    assert "batch_first=True" in model.sites["self_attn"].problem


def test_a_layer_that_no_batch_has_reached_says_so() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = wrap(Unused())
    with pytest.raises(GrowthError, match="'used' cannot host a seed: no batch has passed through the model"):
        model.site_shape("used", "series")
    model.observe(torch.randn(2, 4))
    assert model.site_shape("used", "series").out_shape == (4,)
    with pytest.raises(GrowthError, match="the probe batch did not pass through it"):
        model.site_shape("spare", "series")


def test_order_follows_the_forward_and_not_the_names() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    model = wrap(Backwards())
    model.observe(torch.randn(2, 4))
    assert model.sites["first"].order < model.sites["last"].order


@pytest.mark.parametrize("name", HOSTS)
def test_observing_leaves_no_trace(name: str) -> None:
    """Row 27: modes, buffers, gradients, hooks and generators are as they were, seeds' included."""
    model, manager = growable(name, dropout=0.5)
    for index, layer in enumerate(model.sites):
        manager.apply(germinate(layer, "no_op" if index else "norm"), TrainingPosition(0, 0))
    stir(model.seeds)
    model.train()
    frozen = next(iter(model.host.children()))
    frozen.eval()
    modes = [m.training for m in model.modules()]
    before, generator = bits(model), torch.get_rng_state()
    hooks = [len(m._forward_hooks) for m in model.modules()]
    sites = {layer: (s.layout, s.in_shape, s.out_shape) for layer, s in model.sites.items()}
    model.observe(batch(name, 4, seed=9))
    assert [m.training for m in model.modules()] == modes
    assert same_bits(before, bits(model))
    assert torch.equal(generator, torch.get_rng_state())
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(p.grad is None for p in model.parameters())
    assert torch.backends.mha.get_fastpath_enabled()
    assert {layer: (s.layout, s.in_shape, s.out_shape) for layer, s in model.sites.items()} == sites


def test_a_batch_the_host_cannot_take_leaves_it_as_it_was() -> None:
    model = wrap(host("convnet"), ["fc"])
    with pytest.raises(RuntimeError):
        model.observe(torch.randn(2, 3, 8, 8))
    assert model.training and not model.host.get_submodule("fc")._forward_hooks
    assert not model.sites["fc"].usable


def test_watching_closes_the_fused_path_and_opens_it_again() -> None:
    model = host("encoder")
    with pytest.raises(KeyError), probe_mode(model):
        assert not torch.backends.mha.get_fastpath_enabled() and not model.training
        raise KeyError
    assert torch.backends.mha.get_fastpath_enabled() and model.training

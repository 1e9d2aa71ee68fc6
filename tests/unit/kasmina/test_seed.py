from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.hosts import Pair
from torch import Tensor, nn

from esper.kasmina import Seed
from esper.kasmina.seed import GRAD_COUNT, GRAD_SQUARES, GRAD_SUM, SeedHook


def make(mode: str = "additive", placement: str = "series", **options: Any) -> Seed:
    torch.manual_seed(0)
    body = options.pop("body", nn.Linear(4, 4))
    return Seed(body, placement=placement, mode=mode, layout="features", channels=4, rng_seed=1)


def test_what_it_adds_is_alpha_times_its_output() -> None:
    """In series it reads the layer's output, in parallel the layer's input."""
    x, h = torch.randn(3, 4), torch.randn(3, 4)
    for placement, source in (("series", h), ("parallel", x)):
        seed = make(placement=placement)
        seed.set_alpha(0.25)
        assert torch.equal(seed(x, h), h + 0.25 * seed.body(source))


def test_a_gate_weighs_each_channel() -> None:
    seed, h = make("gated"), torch.randn(3, 4)
    assert seed.gate is not None
    seed.set_alpha(1.0)
    with torch.no_grad():
        seed.gate.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0]))
    assert torch.equal(seed(h, h), h + seed.gate * seed.body(h))


@pytest.mark.parametrize(
    ("given", "held"), [(-0.5, 0.0), (0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.0000001, 1.0), (7.0, 1.0)]
)
def test_alpha_is_a_buffer_that_stays_between_0_and_1(given: float, held: float) -> None:
    """Clamped."""
    seed = make()
    alpha = seed.alpha
    seed.set_alpha(given)
    assert seed.alpha is alpha and alpha.item() == held
    assert "alpha" in dict(seed.named_buffers())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_stay_in_full_precision(dtype: torch.dtype) -> None:
    """Half precision would stop counting at 256."""
    seed = make().to(dtype)
    assert seed.body.weight.dtype is dtype and seed.stats.dtype is torch.float32
    for parameter in seed.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(600):
        seed.record_gradients()
    assert seed.stats[GRAD_COUNT] == 600
    assert seed.stats[GRAD_SUM].item() == pytest.approx(600 * 20**0.5, rel=0.01)
    assert seed.to("meta").stats.is_meta


def test_gradients_that_overflowed_do_not_spoil_the_statistics() -> None:
    seed = make()
    for value in (1.0, torch.inf, torch.nan, 2.0):
        for parameter in seed.parameters():
            parameter.grad = torch.full_like(parameter, value)
        seed.record_gradients()
    root = 20**0.5  # of its 20 parameters
    assert seed.stats[GRAD_COUNT] == 2
    assert seed.stats[GRAD_SUM].item() == pytest.approx(3 * root)
    assert seed.stats[GRAD_SQUARES].item() == pytest.approx(5 * 20)


def test_without_gradients_nothing_is_noted() -> None:
    seed = make()
    seed.record_gradients()
    assert seed.stats.eq(0).all() and seed.objective() is None


def test_parameters_are_counted_with_the_gate() -> None:
    assert (make().params, make("gated").params) == (20, 24)
    assert make().trainable and not make(body=nn.Identity()).trainable


class Layer(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, ids: Tensor, x: Tensor) -> Any:
        return self.kind(x + 1)


def hung(kind: Any, *seeds: Seed) -> nn.Module:
    layer = Layer(kind)
    layer.register_forward_hook(SeedHook(seeds), with_kwargs=True)
    return layer


@pytest.mark.parametrize(
    ("kind", "main"),
    [
        (lambda h: h, lambda out: out),
        (lambda h: (h, 5), lambda out: out[0]),
        (lambda h: [h, 5], lambda out: out[0]),
        (lambda h: Pair(h, 5), lambda out: out.features),
    ],
)
def test_joined_seeds_add_to_the_main_output_one_after_the_other(kind: Any, main: Any) -> None:
    """Also of layers that return tuples; whatever else they return is untouched."""
    ids, x = torch.zeros(3, dtype=torch.long), torch.randn(3, 4)
    first, second, asleep = make(), make(placement="parallel"), make()
    for seed in (first, second):
        seed.joined = True
        seed.set_alpha(1.0)
    answer = hung(kind, first, asleep, second)(ids, x)
    h = x + 1 + first.body(x + 1)
    assert torch.equal(main(answer), h + second.body(x))
    assert type(answer) is type(kind(x))
    if not isinstance(answer, Tensor):
        assert answer[1] == 5


def test_seeds_that_have_not_joined_leave_the_very_same_output() -> None:
    x, kept = torch.randn(3, 4), []
    layer = Layer(lambda h: kept.append(h) or (h,))
    layer.register_forward_hook(SeedHook([make()]), with_kwargs=True)
    assert layer(None, x)[0] is kept[0]


def test_an_isolated_seed_listens_in_training_only() -> None:
    seed, x = make(), torch.randn(3, 4, requires_grad=True)
    seed.isolated = True
    layer = hung(lambda h: h, seed)
    with torch.no_grad():
        layer(None, x)
    seed.eval()
    layer(None, x)
    assert seed.taps == []
    seed.train()
    layer(None, x)
    assert len(seed.taps) == 1


def test_an_output_it_cannot_add_to_passes_through() -> None:
    seed = make()
    seed.joined = True
    answer = {"h": torch.zeros(2)}
    layer = hung(lambda h: answer, seed)
    assert layer(None, torch.zeros(1)) is answer

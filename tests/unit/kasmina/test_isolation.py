"""A seed in TRAINING learns, and the host does not know."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers.hosts import (
    BLUEPRINTS,
    HOSTS,
    batch,
    bits,
    cull,
    fitting,
    germinate,
    growable,
    same_bits,
    stir,
    targets,
)
from torch import Tensor, nn

from esper.kasmina import MorphableModel, Seed, SeedManager, SiteShape, TrainingPosition, register_blueprint
from esper.kasmina.isolation import STEP_RATIO, guard_gradients, learn
from esper.kasmina.seed import OBJECTIVE_FIRST, OBJECTIVE_NOW
from esper.kasmina.tap import ActivationTap
from esper.leyline import SeedStage
from esper.tolaria.compiled_forward import TrainingForward
from esper.tolaria.optimization.clipping import Clipping
from esper.tolaria.optimization.lr_schedule import Horizon, LearningRate, cosine
from esper.tolaria.optimization.optimizer_manager import BaseRates, OptimizerManager
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import Task, pair_adapter
from esper.tolaria.training_step import Stepper

CPU = torch.device("cpu")


@register_blueprint("test_dropping")
def dropping(shape: SiteShape, *, hidden: int = 8) -> nn.Module:
    """An MLP with dropout of its own, on the last axis."""
    last = nn.Linear(hidden, shape.out_shape[-1])
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(shape.in_shape[-1], hidden), nn.GELU(), nn.Dropout(0.5), last)


def task(name: str, number: int) -> tuple[Tensor, Tensor]:
    """A batch whose classes follow from its inputs, so that there is something to learn."""
    x = batch(name, 6, seed=number)
    return x, (x.flatten(1)[:, :3].sum(1) > 0).long()


@dataclass
class Loop:
    """A training loop of real parts over fixed data."""

    model: MorphableModel
    manager: SeedManager
    optimizers: OptimizerManager
    stepper: Stepper
    name: str

    def run(self, steps: int, micro: int = 2) -> list[float]:
        self.model.train()
        norms = []
        for at in range(steps):
            window = [task(self.name, (at * micro + i) % 8) for i in range(micro)]
            norm = self.stepper.step(window, [], at, return_norm=True)
            assert norm is not None
            norms.append(norm.item())
            self.manager.tick()
        return norms


def loop(name: str, *, clip: float | None = 0.5, precision: bool | str = False, **config: Any) -> Loop:
    model, manager = growable(name, dropout=0.3, **{"isolation_steps": 10_000} | config)
    optimizers = OptimizerManager(
        model,
        lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        rates=BaseRates(1e-3, 1e-3, 1e-2, 0),
    )
    forward = TrainingForward(
        model, compile_model=False, backend="eager", batch_size=6, on_fallback=lambda why: None
    )
    schedule = LearningRate(cosine(Horizon(200, 20)))
    task = Task(nn.CrossEntropyLoss(), pair_adapter, Precision(precision, CPU), CPU)
    stepper = Stepper(forward, optimizers, manager, schedule, task, Clipping(clip))
    return Loop(model, manager, optimizers, stepper, name)


def both(name: str, steps: int, attach: Callable[[Loop], None], **options: Any) -> tuple[Loop, Loop]:
    """The same training without and with seeds; asserts that the host is equal, and returns both."""
    bare, growing = loop(name, **options), loop(name, **options)
    attach(growing)
    torch.manual_seed(7)
    alone = bare.run(steps)
    generator = torch.get_rng_state()
    torch.manual_seed(7)
    beside = growing.run(steps)
    assert alone == beside
    assert torch.equal(generator, torch.get_rng_state())
    assert same_bits(bits(bare.model.host), bits(growing.model.host))
    return bare, growing


def sow(growing: Loop, layer: str, blueprint: str, placement: str = "series", index: int = 0) -> Seed:
    change = growing.manager.apply(germinate(layer, blueprint, placement, index), TrainingPosition(0, 0))
    growing.optimizers.apply(change, 0)
    record = growing.model.record(layer, index)
    assert record.stage is SeedStage.TRAINING
    return growing.model.seed_module(record)


@pytest.mark.parametrize(
    ("name", "germinated"),
    [
        ("in_place", [("conv1", "conv_heavy", "series"), ("conv2", "depthwise", "parallel")]),
        ("mlp", [("body.fc2", "test_dropping", "series"), ("body", "mlp", "parallel")]),
    ],
)
def test_the_host_is_bit_identical_after_200_steps(name: str, germinated: list[tuple[str, str, str]]) -> None:
    """Dropout in host and seed, clipping and accumulation; the seed's own objective falls."""
    seeds: list[Seed] = []
    _, growing = both(name, 200, lambda it: seeds.extend(sow(it, *seed) for seed in germinated))
    assert len(growing.optimizers.isolated) == len(seeds) == 2
    for seed in seeds:
        assert seed.stats[OBJECTIVE_FIRST].item() == pytest.approx(1.0, abs=1e-4)
        assert seed.stats[OBJECTIVE_NOW].item() < 0.98
        assert seed.taps == []


@pytest.mark.parametrize("name", HOSTS)
def test_no_host_notices_its_seeds(name: str) -> None:
    """For tuples, modules called twice, attention, overwritten outputs: with a seed at every site."""

    def attach(it: Loop) -> None:
        for n, layer in enumerate(it.model.sites):
            sow(it, layer, "noise" if n == 1 else "low_rank")
            sow(it, layer, "no_op" if n == 1 else "squeeze_excite", index=1)

    _, growing = both(name, 6, attach)
    learning = [seed for _, seed in growing.manager.isolated if seed.trainable]
    objectives = [seed.objective() for seed in learning]
    assert objectives and all(value is not None and value >= 0.0 for value in objectives)
    assert all(seed.taps == [] for _, seed in growing.manager.isolated)


def test_fp16_with_a_scaler_that_overflows() -> None:
    """Scaled and checked for Inf on its own."""
    scales: list[float] = []

    def attach(it: Loop) -> None:
        sow(it, "body.fc2", "test_dropping")
        sow(it, "body", "mlp", "parallel")

    def high(it: Loop) -> Loop:
        it.stepper.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**32)
        return it

    bare, growing = (high(loop("mlp", precision="fp16")) for _ in range(2))
    attach(growing)
    for it in (bare, growing):
        torch.manual_seed(7)
        it.run(80)
        assert it.stepper.precision.scaler is not None
        scales.append(it.stepper.precision.scaler.get_scale())
    # it did overflow, and equally often
    assert scales[0] == scales[1] < 2.0**28
    assert same_bits(bits(bare.model.host), bits(growing.model.host))
    for _, seed in growing.manager.isolated:
        assert all(torch.isfinite(p).all() for p in seed.parameters())
        assert seed.stats[OBJECTIVE_FIRST].item() == pytest.approx(1.0, abs=0.01)
        assert seed.stats[OBJECTIVE_NOW].item() < 1.0


def test_a_host_in_bfloat16_has_seeds_that_learn() -> None:
    growing = loop("mlp")
    growing.model.bfloat16()
    seed = sow(growing, "body.fc1", "low_rank")
    assert seed.body[-1].weight.dtype is torch.bfloat16
    window = [(batch("mlp").bfloat16(), targets())]
    for at in range(5):
        growing.stepper.step(window, [], at)
    assert seed.objective() is not None and seed.body[-1].weight.abs().sum() > 0


# -- the objective -------------------------------------------------------------------------------


def linear_seed(**options: Any) -> Seed:
    torch.manual_seed(0)
    body = options.pop("body", None) or nn.Linear(4, 4)
    seed = Seed(body, placement="series", mode="additive", layout="features", channels=4, rng_seed=5)
    seed.isolated = True
    return seed


def tap(h: Tensor, gradient: Tensor) -> ActivationTap:
    heard = ActivationTap(h, h.clone().requires_grad_())
    heard.gradient = gradient
    return heard


def test_it_is_the_relative_error_to_a_step_of_bounded_size() -> None:
    """Mean((d - t)^2) / mean(t^2) with t = -r rms(h) g / rms(g)."""
    seed, h, g = linear_seed(), torch.randn(5, 4), torch.randn(5, 4)
    t = -STEP_RATIO * h.square().mean().sqrt() * g / g.square().mean().sqrt()
    wanted = (seed.body(h) - t).square().mean() / t.square().mean()
    seed.taps = [tap(h, g)]
    learn(seed, 0)
    assert seed.stats[OBJECTIVE_NOW].item() == pytest.approx(wanted.item(), rel=1e-5)
    expected = torch.autograd.grad(wanted, seed.body.weight)[0]
    assert torch.allclose(seed.body.weight.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_the_size_of_the_gradient_does_not_count(size: float) -> None:
    """Neither a loss scale nor a vanishing gradient changes what the seed learns."""
    g, h = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.ones(5, 4)
    found = []
    for scale in (1.0, size):
        seed = linear_seed()
        seed.taps = [tap(h, g * scale)]
        learn(seed, 0)
        found.append((seed.stats[OBJECTIVE_NOW].item(), seed.body.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-3)


def test_it_starts_at_1_and_converges_instead_of_running_away() -> None:
    """A straight-through term alone would be linear in the output and diverge."""
    seed = linear_seed()
    nn.init.zeros_(seed.body.weight)
    nn.init.zeros_(seed.body.bias)
    h, g = torch.randn(64, 4), torch.randn(64, 4)
    optimizer = torch.optim.Adam(seed.parameters(), lr=0.01)
    for step in range(600):
        seed.taps = [tap(h, g)]
        learn(seed, step)
        optimizer.step()
        optimizer.zero_grad()
    assert seed.stats[OBJECTIVE_FIRST].item() == pytest.approx(1.0, abs=1e-6)
    # its least value is the share that a linear map of h cannot explain
    design = torch.cat([h, torch.ones(64, 1)], dim=1)
    left = g - design @ torch.linalg.lstsq(design, g).solution
    assert seed.objective() == pytest.approx((left.square().mean() / g.square().mean()).item(), abs=0.01)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_an_overflowed_tap_counts_for_nothing(bad: float) -> None:
    h, g = torch.randn(5, 4), torch.randn(5, 4)
    broken = g.clone()
    broken[0, 0] = bad
    alone, beside, only = linear_seed(), linear_seed(), linear_seed()
    alone.taps, beside.taps, only.taps = [tap(h, g)], [tap(h, broken), tap(h, g)], [tap(h, broken)]
    for seed in (alone, beside, only):
        learn(seed, 0)
    assert torch.equal(alone.stats, beside.stats)
    assert torch.equal(alone.body.weight.grad, beside.body.weight.grad)
    assert only.stats.eq(0).all() and only.objective() is None
    assert only.body.weight.grad.eq(0).all()


def test_what_a_tap_heard_is_its_own_copy() -> None:
    """The host overwrites its activations, and later layers the gradients."""
    x = torch.randn(5, 4, requires_grad=True)
    h = 1.0 * x
    before = h.detach().clone()
    heard = ActivationTap(h, h)
    output, arriving = torch.relu_(h), torch.ones(5, 4)
    output.backward(arriving)
    arriving.fill_(9.0)
    assert torch.equal(heard.source, before)
    # with respect to the output as it was before it was overwritten
    assert heard.gradient is not None and torch.equal(heard.gradient, (before > 0).float())
    untouched = ActivationTap(h := 1.0 * x, h)
    h.backward(arriving)
    arriving.zero_()
    assert untouched.gradient is not None and untouched.gradient.eq(9.0).all()


def test_the_objective_is_smoothed_over_steps() -> None:
    values = []
    seed = linear_seed()
    for step, scale in enumerate((1.0, 3.0)):
        alone = linear_seed()
        heard = torch.randn(5, 4, generator=torch.Generator().manual_seed(step)), torch.full((5, 4), scale)
        seed.taps, alone.taps = [tap(*heard)], [tap(*heard)]
        learn(seed, step)
        learn(alone, step)
        values.append(alone.stats[OBJECTIVE_NOW].item())
    assert seed.stats[OBJECTIVE_FIRST].item() == values[0]
    assert seed.objective() == pytest.approx(0.95 * values[0] + 0.05 * values[1])


def test_a_gradient_of_zero_asks_for_silence() -> None:
    seed = linear_seed()
    seed.taps = [tap(torch.randn(5, 4), torch.zeros(5, 4))]
    learn(seed, 0)
    assert torch.isfinite(seed.stats).all() and torch.isfinite(seed.body.weight.grad).all()


def test_taps_without_a_backward_pass_are_forgotten() -> None:
    seed = linear_seed()
    seed.taps = [ActivationTap(torch.ones(2, 4), torch.ones(2, 4, requires_grad=True))]
    learn(seed, 0)
    assert seed.taps == [] and seed.body.weight.grad is None


def test_a_seed_with_nothing_to_learn_neither_listens_nor_fails() -> None:
    """A no-op in isolation: it has no parameters, so nothing would ever empty its taps."""
    growing = loop("mlp")
    seed = sow(growing, "body.fc1", "no_op")
    growing.run(3)
    assert seed.taps == [] and not seed.isolated


@pytest.mark.parametrize("step", [0, 3])
def test_what_a_seed_draws_depends_on_itself_and_the_step(step: int) -> None:
    """From its own generator; the global one stays where it is."""
    h, g, found = torch.randn(5, 4), torch.randn(5, 4), []
    linear = nn.Linear(4, 4)

    def dropping() -> Seed:
        return linear_seed(body=nn.Sequential(nn.Dropout(0.5), copy.deepcopy(linear)))

    for global_seed in (1, 2):
        seed = dropping()
        seed.taps = [tap(h, g)]
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        learn(seed, step)
        assert torch.equal(before, torch.get_rng_state())
        found.append(seed.body[1].weight.grad)
    assert torch.equal(*found)
    other = dropping()
    other.taps = [tap(h, g)]
    learn(other, step + 1)
    assert not torch.equal(found[0], other.body[1].weight.grad)


def test_a_gated_seed_learns_its_gate() -> None:
    growing = loop("mlp", blend_mode="gated")
    seed = sow(growing, "body.fc1", "mlp")
    growing.run(5)
    assert seed.gate is not None and not seed.gate.eq(1).all()


# -- the guard -----------------------------------------------------------------------------------


def with_gradient(value: float) -> Seed:
    seed = linear_seed()
    for parameter in seed.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return seed


def norm_of(seed: Seed) -> float:
    return nn.utils.get_total_norm([p.grad for p in seed.parameters() if p.grad is not None]).item()


def test_a_seed_is_clipped_on_its_own() -> None:
    seed = with_gradient(3.0)
    guard_gradients(seed, None)
    assert norm_of(seed) == pytest.approx(3.0 * 20**0.5)
    guard_gradients(seed, 0.5)
    assert norm_of(seed) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_one_bad_value_drops_the_whole_step(bad: float, clip: float | None) -> None:
    seed = with_gradient(1.0)
    seed.body.bias.grad[0] = bad
    guard_gradients(seed, clip)
    assert norm_of(seed) == 0.0


def test_every_blueprint_survives_isolation() -> None:
    """Weights that are not zero, one step: all blueprints keeps finite values."""
    germinated = set()
    for name in ("conv1d", "mlp", "convnet"):
        growing = loop(name)
        for number, (layer, placement, blueprint) in enumerate(fitting(growing.model)):
            index = number % 2
            seed = sow(growing, layer, blueprint, placement, index)
            stir(seed)
            growing.run(1)
            assert all(torch.isfinite(p).all() for p in seed.parameters())
            germinated.add(blueprint)
            growing.optimizers.apply(growing.manager.apply(cull(layer, index), TrainingPosition(0, 0)), 0)
            growing.manager.embargo(growing.model.record(layer, index), 0, TrainingPosition(0, 0))
            growing.manager.advance(TrainingPosition(0, 100))
    assert germinated == set(BLUEPRINTS)

"""The exact results of one optimiser step, which does not synchronise with the device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.grown import Grown, Host, adam, batch, grad_norm, make_host, split
from helpers.runs import germinate, same, weights
from helpers.synchronisation import SyncDetector
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.kasmina import MorphableModel
from esper.tolaria.compiled_forward import TrainingForward
from esper.tolaria.optimization.clipping import Clipping
from esper.tolaria.optimization.lr_schedule import Horizon, LearningRate, constant
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import RunningMetrics, Task, pair_adapter
from esper.tolaria.training_step import GRADIENT_SAMPLE_STEPS, Stepper

CPU = torch.device("cpu")
LOSS = nn.CrossEntropyLoss()


def stepper(grown: Grown, *, precision: bool | str = False, clip_norm: float | None = None) -> Stepper:
    forward = TrainingForward(
        grown.model, compile_model=False, backend="eager", batch_size=8, on_fallback=pytest.fail
    )
    return Stepper(
        forward,
        grown.optimizers,
        grown.seeds,
        LearningRate(constant(Horizon(10, 5))),
        Task(LOSS, pair_adapter, Precision(precision, CPU), CPU),
        Clipping(clip_norm),
    )


class GradientsAtStep:
    """Keeps copies of the gradients that the main optimiser was given, at each of its steps."""

    def __init__(self, grown: Grown) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.model: MorphableModel = grown.model
        grown.optimizers.main.register_step_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.seen.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})


def gradients(sizes: Sequence[int], **options: Any) -> dict[str, Tensor]:
    """The gradient of one step over a batch cut into pieces of these sizes."""
    grown = make_host()
    grown.do(germinate("a", "mlp"))
    grown.model.seed_module(grown.model.record("a", 0)).set_alpha(0.5)
    seen = GradientsAtStep(grown)
    window = split(batch(sum(sizes)), list(sizes))
    stepper(grown, **options).step(window, [RunningMetrics(CPU)], 0)
    assert len(seen.seen) == 1
    return seen.seen[0]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
@settings(max_examples=30)
def test_any_accumulation_has_the_full_batchs_gradient(sizes: list[int]) -> None:
    """Micro-batches weigh by their share of samples, for any remainder."""
    whole, parts = gradients([sum(sizes)]), gradients(sizes)
    assert parts.keys() == whole.keys()
    for name in whole:
        assert torch.allclose(parts[name], whole[name], rtol=1e-5, atol=1e-6), name


def test_every_meter_counts_every_batch() -> None:
    grown = make_host()
    meters = [RunningMetrics(CPU), RunningMetrics(CPU)]
    x, y = batch(10)
    expected = LOSS(grown.model(x), y).item()
    stepper(grown).step(split((x, y), [4, 4, 2]), meters, 0)
    assert meters[0].samples == 10
    assert meters[0].read() == meters[1].read()
    assert meters[0].read()[0] == pytest.approx(expected, rel=1e-5)


def test_gradients_are_gone_after_the_step() -> None:
    grown = make_host(isolation_steps=5)
    grown.do(germinate("a", "mlp"))
    stepper(grown).step([batch(8)], [RunningMetrics(CPU)], 0)
    assert all(p.grad is None for p in grown.model.parameters())


def moved(before: dict[str, Tensor], grown: Grown, prefix: str = "") -> float:
    now = weights(grown.model)
    return (
        sum(
            float((now[n] - t).square().sum())
            for n, t in before.items()
            if n.startswith(prefix) and "stats" not in n
        )
        ** 0.5
    )


@pytest.mark.parametrize("precision", [False, "bf16", "fp16"])
@pytest.mark.parametrize("sizes", [[12], [5, 5, 2]])
def test_gradients_are_unscaled_once_before_they_are_clipped(precision: bool | str, sizes: list[int]) -> None:
    """With the scale still on, or taken off twice, neither norm could be right."""
    grown = make_host()
    before = weights(grown.model)
    x, y = batch(12)
    true = copy.deepcopy(grown.model)
    LOSS(true(x), y).backward()
    norm = stepper(grown, precision=precision, clip_norm=0.01).step(
        split((x, y), sizes), [RunningMetrics(CPU)], 0
    )
    assert norm is not None
    assert norm.item() == pytest.approx(grad_norm(true), rel=2e-2)
    # the first step of SGD with momentum: rate times gradient
    assert moved(before, grown) == pytest.approx(0.1 * 0.01, rel=1e-2)


def test_the_norm_is_taken_only_where_it_is_wanted() -> None:
    assert stepper(make_host()).step([batch(8)], [RunningMetrics(CPU)], 0) is None
    norm = stepper(make_host()).step([batch(8)], [RunningMetrics(CPU)], 0, return_norm=True)
    assert norm is not None
    assert norm.item() > 0


def test_overflow_in_fp16_costs_the_step_and_nothing_else() -> None:
    grown = make_host()
    grown.do(germinate("a", "mlp"))
    before = weights(grown.model)
    made = stepper(grown, precision="fp16", clip_norm=1.0)
    x, y = batch(8)
    made.step([(x * 1e6, y)], [RunningMetrics(CPU)], 0)
    after = weights(grown.model)
    # a sampled gradient norm that is not finite would close the seed's sanity gate for good
    assert all(torch.isfinite(t).all() for t in after.values())
    assert same(
        {n: t for n, t in before.items() if "stats" not in n},
        {n: t for n, t in after.items() if "stats" not in n},
    )
    made.step([(x, y)], [RunningMetrics(CPU)], 1)
    assert moved(before, grown) > 0


def test_a_seed_in_isolation_changes_nothing_for_the_host() -> None:
    """With dropout, clipping and accumulation, to the bit, while the seed learns."""

    def host() -> Host:
        return Host(dropout=0.3)

    alone, beside = make_host(host=host), make_host(host=host, isolation_steps=1000)
    beside.do(germinate("a", "mlp"))
    beside.do(germinate("b", "mlp", number=2))
    for grown in (alone, beside):
        torch.manual_seed(7)
        made = stepper(grown, clip_norm=0.05)
        for at in range(200):
            made.step(split(batch(32, seed=at), [12, 12, 8]), [RunningMetrics(CPU)], at)
    assert same(weights(alone.model.host), weights(beside.model.host))
    for layer in "ab":
        seed = beside.model.seed_module(beside.model.record(layer, 0))
        objective = seed.objective()
        assert objective is not None
        assert objective < 0.99 * seed.stats[0].item()


def test_joined_seeds_gradients_are_sampled_now_and_then() -> None:
    grown = make_host()
    grown.do(germinate("a", "mlp"))
    grown.model.seed_module(grown.model.record("a", 0)).set_alpha(1.0)
    made = stepper(grown)
    for at in range(2 * GRADIENT_SAMPLE_STEPS):
        made.step([batch(8, seed=at)], [RunningMetrics(CPU)], at)
    assert grown.model.seed_module(grown.model.record("a", 0)).stats[4].item() == 2


@pytest.mark.parametrize("factory", ["sgd", "adam"])
@pytest.mark.parametrize("precision", [False, "bf16"])
def test_a_step_waits_for_no_value(factory: str, precision: bool | str) -> None:
    """No `.item()`, with clipping, accumulation, a joined seed, an isolated one and a running blend."""
    grown = make_host(isolation_steps=0) if factory == "sgd" else make_host(isolation_steps=0, factory=adam)
    grown.do(germinate("a", "mlp"))
    grown.seeds.config.isolation_steps = 100
    grown.do(germinate("b", "mlp", number=2))
    made = stepper(grown, precision=precision, clip_norm=0.5)
    meter = RunningMetrics(CPU)
    for at in range(GRADIENT_SAMPLE_STEPS):
        made.step(split(batch(8, seed=at), [3, 5]), [meter], at)
    optimizers = (grown.optimizers.main, *grown.optimizers.isolated.values())
    # torch's own Adam keeps its step count on the processor, and reads it there
    counts = {s["step"].data_ptr() for o in optimizers for s in o.state.values() if "step" in s}
    with SyncDetector(counts) as waits:
        made.step(split(batch(8), [3, 5]), [meter], GRADIENT_SAMPLE_STEPS, return_norm=True)
        grown.seeds.tick()
        assert waits.found == []
        meter.read()
    assert waits.found  # the notes do notice

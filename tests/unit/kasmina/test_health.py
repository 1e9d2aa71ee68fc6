from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from helpers.hosts import HOSTS, batch, bits, cull, germinate, growable, same_bits, stir, targets, wrapped
from torch import Tensor, nn

from esper.config import SeedConfig
from esper.kasmina import HealthMonitor, MorphableModel, SeedManager, TrainingPosition, wrap
from esper.kasmina.health import SAMPLE_VALUES
from esper.leyline import HealthSignal, SeedStage

NOW = TrainingPosition(0, 0)


def measure(
    model: MorphableModel, name: str, monitor: HealthMonitor | None = None
) -> dict[str, HealthSignal]:
    return (monitor or HealthMonitor(model, 3)).measure(
        lambda: nn.functional.cross_entropy(model(batch(name)), targets()), 6
    )


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("isolation_steps", [0, 9])
def test_every_site_and_every_living_seed_has_a_signal(name: str, isolation_steps: int) -> None:
    """Layer, seed and chunk, variance, dead ratio, gradients, latency, memory, throughput."""
    model, manager = growable(name, isolation_steps=isolation_steps)
    for layer in model.sites:
        manager.apply(germinate(layer, "low_rank"), NOW)
    stir(model.seeds)
    signals = measure(model, name)
    slots = {r.key: r for row in model.records.values() for r in row}
    assert set(signals) == set(slots)
    for key, signal in signals.items():
        record = slots[key]
        assert (signal.layer, signal.seed_index, signal.chunk_id) == (
            record.layer,
            record.index,
            record.chunk_id,
        )
        assert signal.stage is record.stage
        numbers = [getattr(signal, f.name) for f in fields(signal) if f.type == "float"]
        assert all(math.isfinite(value) and value >= 0.0 for value in numbers)
        assert signal.activation_variance > 0 and 0.0 <= signal.dead_ratio <= 1.0
        assert signal.latency_ms > 0 and signal.throughput == pytest.approx(6e3 / signal.latency_ms)
        if not record.alive:
            assert signal.gradient_norm > 0


def hook_counts(model: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


@pytest.mark.parametrize("name", HOSTS)
def test_measuring_leaves_no_trace(name: str) -> None:
    """No gradient, buffer, mode, hook or generator."""
    model, manager = growable(name, dropout=0.5, isolation_steps=9)
    layers = list(model.sites)
    manager.apply(germinate(layers[0], "low_rank"), NOW)
    # what it adds is drawn at random: it is not joined, so only measuring could draw
    manager.apply(germinate(layers[1], "noise"), NOW)
    model.train()
    next(iter(model.host.children())).eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes, before = [m.training for m in model.modules()], bits(model)
    hooks, generator = hook_counts(model), torch.get_rng_state()
    measure(model, name)
    assert [m.training for m in model.modules()] == modes and same_bits(before, bits(model))
    assert hook_counts(model) == hooks
    assert all(p.grad is not None and p.grad.eq(1).all() for p in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(seed.taps == [] for _, seed in manager.isolated)


def test_a_probe_that_fails_leaves_no_hook_either() -> None:
    model = wrapped("mlp")

    def probe() -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        HealthMonitor(model, 3).measure(probe, 6)
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Fixed(nn.Module):
    """A layer whose output is known."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.make = make

    def forward(self, x: Tensor) -> Tensor:
        return self.make(x) * self.weight


def signal_of(
    make: Any, x: Tensor, loss: Any = lambda h: h.square().sum(), layer: nn.Module | None = None
) -> Any:
    model = wrap(nn.Sequential(layer or Fixed(make)), ["0"], 1)
    model.observe(x)
    return HealthMonitor(model, 3).measure(lambda: loss(model(x)), len(x))["0#0"]


def test_variance_is_that_of_the_activations() -> None:
    x = torch.randn(40, 8)
    assert signal_of(lambda x: 3 * x, x).activation_variance == pytest.approx(
        9 * x.var(correction=0).item(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda x: x * torch.tensor([1.0, 0.0, 0.0, 2.0]), (4,)),
        (lambda x: x * torch.tensor([1.0, 0.0, 0.0, 2.0]) + 5, (7, 4)),
        (lambda x: x * torch.tensor([1.0, 0.0, 0.0, 2.0]).view(4, 1, 1), (4, 5, 9)),
    ],
)
def test_a_unit_that_never_varies_is_dead(make: Any, shape: tuple[int, ...]) -> None:
    """Units are the last axis of features, the channels of a convolution."""
    assert signal_of(make, torch.randn(16, *shape)).dead_ratio == 0.5


def test_channels_first_follows_from_the_layout_and_not_from_a_convolution_inside() -> None:
    x = torch.randn(16, 4, 5, 5)
    x[:, 1] = 3.0
    assert signal_of(None, x, layer=nn.BatchNorm2d(4)).dead_ratio == 0.25
    assert (
        signal_of(
            None, torch.relu(x[:, :, 0] - 9 * torch.eye(4)[1].view(4, 1)), layer=nn.BatchNorm1d(4)
        ).dead_ratio
        == 0.25
    )


def test_sampling_sees_every_column_of_an_image() -> None:
    """A stride that fell on one column would take what is active elsewhere for dead."""
    side = 32
    x = torch.zeros(16, 8, side, side)
    x[..., 1:] = torch.randn(16, 8, side, side - 1)
    assert x.numel() > 4 * SAMPLE_VALUES
    assert signal_of(lambda x: x, x).dead_ratio == 0.0


def test_a_sparse_unit_of_a_wide_layer_is_not_dead() -> None:
    x = torch.zeros(64, 4096)
    x[torch.randint(64, (4096,), generator=torch.Generator().manual_seed(0)), torch.arange(4096)] = 1.0
    assert signal_of(lambda x: x, x).dead_ratio == 0.0


def test_the_gradient_is_the_loss_s_with_respect_to_the_output() -> None:
    """The mean over samples of its norm, and the variance over samples."""
    x = torch.randn(6, 4)
    signal = signal_of(lambda x: x, x)
    norms = (2 * x).norm(dim=1)
    assert signal.gradient_norm == pytest.approx(norms.mean().item(), rel=1e-5)
    assert signal.gradient_variance == pytest.approx(norms.var(correction=0).item(), rel=1e-4)


def test_without_a_way_back_there_is_no_gradient() -> None:
    assert signal_of(lambda x: x, torch.randn(6, 4), loss=lambda h: h.detach().sum()).gradient_norm == 0.0


def test_memory_is_parameters_buffers_and_gradients() -> None:
    model, manager = growable("mlp", isolation_steps=9)
    manager.apply(germinate("body.fc1", "low_rank", rank=2), NOW)
    seed = model.seeds["body/fc1#0"]
    assert measure(model, "mlp")["body/fc1#0"].memory_bytes == 4 * (2 * 8 * 2 + 1 + 5)
    seed.body[0].weight.grad = torch.zeros_like(seed.body[0].weight)
    assert measure(model, "mlp")["body/fc1#0"].memory_bytes == 4 * (3 * 8 * 2 + 1 + 5)


def test_a_seed_s_gradient_is_the_mean_of_its_steps() -> None:
    model, manager = growable("mlp", isolation_steps=9)
    manager.apply(germinate("body.fc1", "low_rank"), NOW)
    seed = model.seed_module(model.record("body.fc1", 0))
    for size in (1.0, 3.0):
        for parameter in seed.parameters():
            parameter.grad = torch.full_like(parameter, size)
        seed.record_gradients()
    root = seed.params**0.5
    signal = measure(model, "mlp")["body/fc1#0"]
    assert signal.gradient_norm == pytest.approx(2 * root, rel=1e-5)
    assert signal.gradient_variance == pytest.approx(root**2, rel=1e-4)


def test_errors_and_recovery_are_those_of_the_record() -> None:
    model = wrapped("mlp")
    model.record("body", 0).error_count = 3
    signals = measure(model, "mlp")
    assert (signals["body#0"].error_count, signals["body#0"].recovering) == (3, True)
    assert (signals["body/fc1#0"].error_count, signals["body/fc1#0"].recovering) == (0, False)


def test_a_site_without_free_slots_has_only_its_seeds() -> None:
    model, manager = growable("mlp")
    for index in (0, 1):
        manager.apply(germinate("body", "mlp", "parallel", index), NOW)
    assert [k for k, s in measure(model, "mlp").items() if s.layer == "body"] == ["body#0", "body#1"]
    manager.apply(cull("body", 0), NOW)
    assert [k for k, s in measure(model, "mlp").items() if s.layer == "body"] == ["body#1"]


def test_a_layer_the_probe_does_not_reach_has_no_signal() -> None:
    model = wrapped("mlp")
    signals = HealthMonitor(model, 3).measure(lambda: model.host.body.fc1(batch("mlp").flatten(1)).sum(), 6)
    assert list(signals) == ["body/fc1#0"]


# -- rolling statistics --------------------------------------------------------------------------


def test_rolling_means_run_over_the_window() -> None:
    """Rolling statistics."""
    model = wrap(nn.Sequential(Fixed(lambda x: x)), ["0"], 1)
    x = torch.randn(6, 4)
    model.observe(x)
    monitor, seen = HealthMonitor(model, 3), []
    for scale in (1.0, 2.0, 3.0, 4.0):
        signal = monitor.measure(lambda: model(scale * x).sum(), 6)["0#0"]  # noqa: B023
        seen.append(signal.activation_variance)
        assert signal.rolling["activation_variance"] == pytest.approx(sum(seen[-3:]) / len(seen[-3:]))
    assert set(signal.rolling) == {
        "activation_variance",
        "dead_ratio",
        "gradient_norm",
        "latency_ms",
        "throughput",
    }


def test_a_seed_does_not_inherit_the_history_of_its_slot() -> None:
    """Neither the layer's, from when the slot was dormant, nor that of a seed before it."""
    model, manager = growable("mlp", isolation_steps=9, embargo_epochs=0)
    monitor = HealthMonitor(model, 9)

    def rolling_is_own(key: str) -> bool:
        signal = measure(model, "mlp", monitor)[key]
        return signal.rolling["activation_variance"] == signal.activation_variance

    measure(model, "mlp", monitor)
    for blueprint in ("low_rank", "mlp"):
        manager.apply(germinate("body.fc1", blueprint), TrainingPosition(len(monitor.history), 0))
        stir(model.seeds)
        assert rolling_is_own("body/fc1#0")
        stir(model.seeds)
        assert not rolling_is_own("body/fc1#0")
        manager.apply(cull("body.fc1"), NOW)
        manager.embargo(model.record("body.fc1", 0), 0, NOW)
        assert not any("#0" in life and "fc1" in life for life in _lives(model, monitor))
        manager.advance(NOW)
        monitor.history["unheard of"] = {}


def _lives(model: MorphableModel, monitor: HealthMonitor) -> set[str]:
    measure(model, "mlp", monitor)
    return set(monitor.history)


def test_a_layer_keeps_its_history_while_its_slots_fill() -> None:
    model, manager = growable("mlp")
    monitor = HealthMonitor(model, 9)
    measure(model, "mlp", monitor)
    manager.apply(germinate("body.fc1", "low_rank"), NOW)
    measure(model, "mlp", monitor)
    assert len(monitor.history["body.fc1"]["latency_ms"]) == 2


def test_history_survives_a_checkpoint() -> None:
    model = wrapped("mlp")
    monitor, other = HealthMonitor(model, 3), HealthMonitor(model, 3)
    for _ in range(4):
        measure(model, "mlp", monitor)
    other.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert other.history == monitor.history
    assert all(row.maxlen == 3 for rows in other.history.values() for row in rows.values())


def test_a_joined_seed_is_measured_apart_from_its_layer() -> None:
    """The layer's own signal is that without the seed; the seed's is what it would add."""
    model, manager = growable("mlp")
    before = measure(model, "mlp")["body/fc1#0"]
    manager.apply(germinate("body.fc1", "mlp"), NOW)
    seed = model.seed_module(model.record("body.fc1", 0))
    seed.set_alpha(1.0)
    quiet = measure(model, "mlp")
    assert quiet["body/fc1#0"].activation_variance == 0.0 and quiet["body/fc1#0"].dead_ratio == 1.0
    stir(seed)
    loud = measure(model, "mlp")
    assert loud["body/fc1#0"].activation_variance > 0.0
    assert loud["body/fc1#1"].activation_variance == before.activation_variance
    assert loud["body/fc1#0"].stage is SeedStage.BLENDING


def test_it_works_under_autocast_and_in_bfloat16() -> None:
    model = wrapped("convnet").bfloat16()
    SeedManager(model, SeedConfig()).apply(germinate("block1", "conv_heavy"), NOW)
    probe = lambda: model(batch("convnet").bfloat16()).float().square().mean()  # noqa: E731
    for signal in HealthMonitor(model, 3).measure(probe, 6).values():
        assert math.isfinite(signal.activation_variance) and math.isfinite(signal.gradient_norm)

"""Evaluation and impact, and that both leave everything as it was."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers.grown import Grown, Host, batch, make_host, split
from helpers.runs import germinate, same, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.tolaria.evaluator import Evaluator, batch_statistics
from esper.tolaria.loss.criterion import Criterion
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import Task, pair_adapter

CPU = torch.device("cpu")
LOSS = nn.CrossEntropyLoss()


def evaluator(grown: Grown, loss: Any = LOSS) -> Evaluator:
    return Evaluator(grown.model, Task(loss, pair_adapter, Precision(False, CPU), CPU))


def with_seed(*, alpha: float = 1.0, **host: Any) -> Grown:
    grown = make_host(host=lambda: Host(**host), blend_steps=0)
    grown.do(germinate("a", "mlp"))
    for step in range(20):
        grown.train_step(step)
    grown.model.seed_module(grown.model.record("a", 0)).set_alpha(alpha)
    return grown


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
@settings(max_examples=15)
def test_numbers_are_means_over_samples(sizes: list[int]) -> None:
    grown = make_host()
    x, y = batch(sum(sizes))
    found = evaluator(grown).run(split((x, y), sizes), keep_losses=True)
    with torch.no_grad():
        output = grown.model.host.eval()(x)
    assert found.loss == pytest.approx(LOSS(output, y).item(), rel=1e-5)
    assert found.accuracy == (output.argmax(1) == y).sum().item() / len(y)
    assert found.samples == len(y)
    assert torch.allclose(found.losses, nn.functional.cross_entropy(output, y, reduction="none"), atol=1e-6)


def test_a_loss_that_knows_only_means_gives_one_value_a_batch() -> None:
    grown = make_host()
    made = evaluator(grown, lambda output, targets: nn.functional.cross_entropy(output, targets))
    found = made.run(split(batch(10), [4, 6]), keep_losses=True)
    assert (found.losses.shape, found.error_over) == ((2,), "batches")
    assert found.weights is not None
    assert found.losses.sum().item() / found.weights.sum().item() == pytest.approx(found.loss, rel=1e-6)


def test_the_impact_of_a_loss_without_values_by_sample_says_so() -> None:
    """A focal loss that ignores `reduction` must not end a run once a seed is evaluated."""

    class Focal(nn.CrossEntropyLoss):
        def forward(self, output: Tensor, targets: Tensor) -> Tensor:
            each = nn.functional.cross_entropy(output, targets, reduction="none")
            return ((1 - (-each).exp()) ** 2 * each).mean()

    grown = with_seed()
    made = evaluator(grown, Focal())
    impact = made.impact(
        grown.model.seed_module(grown.model.record("a", 0)), lambda: split(batch(9), [3] * 3)
    )
    assert (impact.error_over, impact.error_values, impact.samples) == ("batches", 3, 9)
    assert 0 < impact.loss_gain_error < math.inf
    assert impact.accuracy_gain is not None


def test_a_task_without_accuracy_has_no_gain_of_accuracy() -> None:
    grown = with_seed()
    x, _ = batch(8)
    impact = evaluator(grown, nn.MSELoss()).impact(
        grown.model.seed_module(grown.model.record("a", 0)), lambda: [(x, x[:, :3])]
    )
    assert (impact.accuracy_gain, impact.error_over, impact.error_values) == (None, "samples", 8)


class MeanError:
    """A metric of the user's own, of which less is better."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seen: list[Tensor] = []

    def update(self, output: Tensor, targets: Tensor) -> None:
        self.seen.append((output.argmax(1) != targets).float())

    def compute(self) -> Tensor:
        return torch.cat(self.seen).mean()


def test_a_metric_of_the_users_own_takes_the_place_of_accuracy() -> None:
    grown, batches = with_seed(), split(batch(9), [4, 5])
    seed = grown.model.seed_module(grown.model.record("a", 0))
    made = evaluator(grown, Criterion(LOSS, metric=MeanError()))
    usual = evaluator(grown)
    right, gain = usual.run(batches).accuracy, usual.impact(seed, lambda: batches).accuracy_gain
    assert right is not None
    assert made.run(batches).accuracy == pytest.approx(1 - right)
    assert made.impact(seed, lambda: batches).accuracy_gain == pytest.approx(gain)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training: bool) -> None:
    """RNG, buffers, gradients and mode are as before, also where the model has dropout and batch norm."""
    grown = with_seed(dropout=0.5, norm=True)
    model = grown.model.train(training)
    LOSS(model(batch(8)[0]), batch(8)[1]).backward()
    before, grads = weights(model), [p.grad.clone() for p in model.parameters() if p.grad is not None]
    modes = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    made = evaluator(grown)
    made.run(split(batch(10), [4, 6]), keep_losses=True)
    made.impact(model.seed_module(model.record("a", 0)), lambda: split(batch(10), [4, 6]))
    assert torch.equal(torch.rand(4), expected)
    assert same(weights(model), before)
    assert all(map(torch.equal, (p.grad for p in model.parameters() if p.grad is not None), grads))
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_a_model_that_fails_is_left_as_it_was_too() -> None:
    grown = with_seed(norm=True)
    seed, model = grown.model.seed_module(grown.model.record("a", 0)), grown.model.train()
    before = weights(model)
    with pytest.raises(RuntimeError):
        evaluator(grown).impact(seed, lambda: [batch(4), (torch.zeros(3, 5), torch.zeros(3))])
    assert same(weights(model), before)
    assert model.training


class Sampling(nn.Module):
    """A host that draws in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 12)
        self.b = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + torch.randn_like(x))


def test_two_evaluations_draw_the_same() -> None:
    grown = make_host(host=Sampling)
    made = evaluator(grown)
    assert made.run([batch(8)]).loss == made.run([batch(8)]).loss


def test_impact_is_loss_without_minus_loss_with() -> None:
    grown = with_seed()
    model, made = grown.model, evaluator(grown)
    seed = model.seed_module(model.record("a", 0))
    batches = split(batch(50), [20, 20, 10])
    impact = made.impact(seed, lambda: batches)
    on = made.run(batches, keep_losses=True)
    bare = copy.deepcopy(grown)
    bare.model.seed_module(bare.model.record("a", 0)).set_alpha(0.0)
    off = evaluator(bare).run(batches, keep_losses=True)
    assert on.accuracy is not None
    assert off.accuracy is not None
    assert impact.loss_gain == pytest.approx(off.loss - on.loss, rel=1e-4)
    assert impact.accuracy_gain == pytest.approx(on.accuracy - off.accuracy, abs=1e-9)
    assert impact.loss_gain_error == pytest.approx(
        (off.losses - on.losses).std().item() / math.sqrt(50), rel=1e-4
    )
    assert impact.samples == 50
    assert seed.alpha.item() == 1.0


def test_a_seed_that_does_nothing_is_worth_exactly_nothing() -> None:
    grown = with_seed(alpha=0.0, norm=True)
    impact = evaluator(grown).impact(grown.model.seed_module(grown.model.record("a", 0)), lambda: [batch(9)])
    assert (impact.loss_gain, impact.loss_gain_error, impact.accuracy_gain) == (0.0, 0.0, 0.0)


def test_impact_does_not_depend_on_running_statistics() -> None:
    """They lag behind a network that has just changed."""
    grown = with_seed(norm=True)
    seed = grown.model.seed_module(grown.model.record("a", 0))
    first = evaluator(grown).impact(seed, lambda: [batch(32)])
    norm = grown.model.host.get_submodule("norm")
    assert isinstance(norm.running_mean, Tensor)
    norm.running_mean += 100.0
    assert evaluator(grown).impact(seed, lambda: [batch(32)]) == first


def test_a_last_batch_of_one_sample_has_no_statistics_and_is_left_out() -> None:
    grown = with_seed(norm=True)
    seed = grown.model.seed_module(grown.model.record("a", 0))
    impact = evaluator(grown).impact(seed, lambda: split(batch(9), [4, 4, 1]))
    assert impact.samples == 8
    assert math.isfinite(impact.loss_gain)


def test_batches_of_one_are_judged_by_the_running_statistics() -> None:
    grown = with_seed(norm=True)
    seed = grown.model.seed_module(grown.model.record("a", 0))
    impact = evaluator(grown).impact(seed, lambda: split(batch(3), [1, 1, 1]))
    assert impact.samples == 3
    assert math.isfinite(impact.loss_gain)


def test_batch_statistics_are_a_loan() -> None:
    host = Host(norm=True).eval()
    x = torch.randn(6, 12) + 5
    with torch.no_grad():
        usual = host(x)
        with batch_statistics(host):
            borrowed = host(x)
        trained = copy.deepcopy(host).train()(x)
        assert torch.equal(host(x), usual)
    assert torch.allclose(borrowed, trained)
    assert not torch.allclose(borrowed, usual)

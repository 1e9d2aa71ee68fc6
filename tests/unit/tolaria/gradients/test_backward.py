"""From a window's losses to the gradients that the optimiser gets."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.grown import Grown, Host, batch, make_host, split
from helpers.objectives import TwoHeads, two_losses
from helpers.pcgrad_reference import projected_sum
from helpers.runs import germinate, same, weights
from helpers.synchronisation import SyncDetector
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.tolaria.compiled_forward import TrainingForward
from esper.tolaria.gradients import Aggregator, ConflictStats, Mean, PCGrad, TaskBackward, Weighted
from esper.tolaria.gradients.pcgrad import draw_orders
from esper.tolaria.optimization.clipping import Clipping
from esper.tolaria.optimization.lr_schedule import Horizon, LearningRate, constant
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.task import RunningMetrics, Task, pair_adapter
from esper.tolaria.training_step import Stepper

CPU = torch.device("cpu")
LOSS = nn.CrossEntropyLoss()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stepper(
    grown: Grown,
    aggregator: Aggregator | None,
    *,
    loss: Any = LOSS,
    precision: bool | str = False,
    clip_norm: float | None = None,
) -> Stepper:
    forward = TrainingForward(
        grown.model, compile_model=False, backend="eager", batch_size=8, on_fallback=pytest.fail
    )
    exact = Precision(precision, CPU)
    backward = None
    if aggregator is not None:
        parameters = grown.optimizers.shared_parameters
        backward = TaskBackward(aggregator, exact, parameters, ConflictStats(CPU, 1.0))
    rate = LearningRate(constant(Horizon(10, 5)))
    task = Task(loss, pair_adapter, exact, CPU)
    return Stepper(forward, grown.optimizers, grown.seeds, rate, task, Clipping(clip_norm), backward)


class Seen:
    """Copies of the gradients that the main optimiser was given."""

    def __init__(self, grown: Grown) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.grown = grown
        grown.optimizers.main.register_step_pre_hook(self._note)

    def _note(self, *_: Any) -> None:
        named = self.grown.model.host.named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in named if p.grad is not None})


def conflicting(sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Samples of which each of the first pieces of these sizes is all of one class."""
    x, _ = batch(sum(sizes))
    classes = [torch.full((size,), i % 3) for i, size in enumerate(sizes)]
    return x, torch.cat(classes)


def gradients(
    aggregator: Aggregator | None, sizes: Sequence[int], *, host: Any = Host, **options: Any
) -> dict[str, Tensor]:
    """The gradient of one step over a batch of samples, cut into pieces of these sizes."""
    grown = make_host(host=host)
    grown.model.train()
    seen = Seen(grown)
    data = conflicting(sizes) if "loss" not in options else batch(sum(sizes))
    stepper(grown, aggregator, **options).step(split(data, list(sizes)), [RunningMetrics(CPU)], 1)
    assert len(seen.steps) == 1
    return seen.steps[0]


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-6) -> bool:
    assert a.keys() == b.keys()
    size = torch.cat([t.flatten() for t in b.values()]).norm()
    return all(float((a[name] - b[name]).norm()) <= tolerance * float(size) for name in a)


# -- micro-batches ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
@settings(max_examples=15)
def test_any_accumulation_by_weight_has_the_full_batchs_gradient(sizes: list[int]) -> None:
    """For any remainder, within 1e-6 of its norm."""
    host = copy.deepcopy(make_host().model.host)
    x, y = conflicting(sizes)
    LOSS(host(x), y).backward()
    whole = {n: p.grad for n, p in host.named_parameters() if p.grad is not None}
    assert close(gradients(None, sizes), whole)
    assert close(gradients(Weighted(), sizes), whole)


UNEVEN = {
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 0.25])),
    "ignored class": nn.CrossEntropyLoss(ignore_index=1),
    "a class of no weight": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0, 2.0])),
    "summed": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 0.25]), reduction="sum"),
}


@pytest.mark.parametrize("loss", UNEVEN.values(), ids=UNEVEN)
@pytest.mark.parametrize("sizes", [(5, 3, 4, 7), (1,) * 6, (2, 6)])
def test_micro_batches_weigh_by_what_their_mean_was_divided_by(loss: Any, sizes: tuple[int, ...]) -> None:
    """Each is all of one class: by samples they would be far off, and one class may count for nothing."""
    host = copy.deepcopy(make_host().model.host)
    x, y = conflicting(sizes)
    loss(host(x), y).backward()
    whole = {n: p.grad for n, p in host.named_parameters() if p.grad is not None}
    for aggregator in (None, Weighted()) if loss.reduction == "mean" else (None,):
        grown = make_host()
        grown.model.train()
        seen = Seen(grown)
        stepper(grown, aggregator, loss=loss).step(split((x, y), list(sizes)), [RunningMetrics(CPU)], 1)
        assert close(seen.steps[0], whole)


@pytest.mark.parametrize("loss", [*UNEVEN.values()][1:3], ids=["ignored", "no weight"])
def test_a_step_in_which_nothing_counts_has_no_gradient(loss: Any) -> None:
    grown = make_host()
    seen = Seen(grown)
    x, _ = batch(6)
    meter = RunningMetrics(CPU)
    stepper(grown, None, loss=loss).step([(x, torch.ones(6, dtype=torch.long))], [meter], 1)
    assert all(not gradient.any() for gradient in seen.steps[0].values())
    assert math.isnan(meter.read()[0])


def by_hand(sizes: Sequence[int], seed: int) -> dict[str, Tensor]:
    """PCGrad over micro-batches by the reference implementation, on a copy of the same host."""
    host = copy.deepcopy(make_host().model.host).train()
    tasks = []
    for part, target in split(conflicting(sizes), list(sizes)):
        host.zero_grad()
        (LOSS(host(part), target) * (len(part) / sum(sizes))).backward()
        tasks.append(torch.cat([p.grad.flatten() for p in host.parameters() if p.grad is not None]))
    flat = projected_sum(tasks, draw_orders(len(sizes), generator(seed)).tolist())
    parts = flat.float().split([p.numel() for p in host.parameters()])
    return {n: g.view_as(p) for (n, p), g in zip(host.named_parameters(), parts, strict=True)}


@pytest.mark.parametrize("sizes", [[8, 8], [5, 5, 5, 2], [1, 6, 1]])
def test_micro_batches_are_freed_of_their_conflicts(sizes: list[int]) -> None:
    """Of any size; first the shares of the step, then the projection."""
    expected = by_hand(sizes, seed=4)
    assert close(gradients(PCGrad(generator(4)), sizes), expected, 1e-5)
    assert not close(gradients(None, sizes), expected, 1e-3)


def test_one_micro_batch_passes_untouched() -> None:
    """Bit for bit, without drawing from the generator."""
    made = PCGrad(generator(4))
    assert same(gradients(made, [12]), gradients(None, [12]))
    assert torch.equal(made.generator.get_state(), generator(4).get_state())


def test_the_mean_counts_micro_batches_whatever_their_size() -> None:
    x, y = conflicting([10, 2])
    found = gradients(Mean(), [10, 2])
    host = copy.deepcopy(make_host().model.host).train()
    ((LOSS(host(x[:10]), y[:10]) + LOSS(host(x[10:]), y[10:])) / 2).backward()
    assert close(found, {n: p.grad for n, p in host.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("norm", [True, False])
def test_mixed_precision_gives_the_same_within_its_rounding(precision: str, norm: bool) -> None:
    """One scale for all tasks, taken off once; batch norm in front of conflicts."""

    def host() -> Host:
        return Host(norm=norm)

    full = gradients(PCGrad(generator()), [6, 6], host=host)
    half = gradients(PCGrad(generator()), [6, 6], host=host, precision=precision)
    assert {t.dtype for t in half.values()} == {torch.float32}
    assert close(half, full, 0.05)


def test_overflow_in_fp16_costs_the_step_and_nothing_else() -> None:
    grown = make_host()
    made = stepper(grown, PCGrad(generator()), precision="fp16", clip_norm=1.0)
    before = weights(grown.model)
    x, y = batch(8)
    made.step([(x * 1e6, y), (x, y.flip(0))], [RunningMetrics(CPU)], 1)
    assert same(before, weights(grown.model))
    made.step([(x, y), (x, y.flip(0))], [RunningMetrics(CPU)], 2)
    after = weights(grown.model)
    assert not same(before, after)
    assert all(torch.isfinite(t).all() for t in after.values())


# -- objectives -------------------------------------------------------------------------------------------


def objectives_by_hand(norm: str, seed: int | None) -> dict[str, Tensor]:
    """Each objective's gradient; PCGrad over the trunk where there is a seed, else the sum; heads alone."""
    host = make_host(host=lambda: TwoHeads(norm)).model.host.train()
    x, y = batch(12)
    losses = two_losses(host(x), y)
    named = dict(host.named_parameters())
    trunk = [n for n in named if n.partition(".")[0] not in ("first", "second")]

    def gradient(loss: Tensor, names: list[str]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, [named[n] for n in names], retain_graph=True)

    flat = [torch.cat([g.flatten() for g in gradient(loss, trunk)]) for loss in losses.values()]
    orders = draw_orders(2, generator(seed or 0)).tolist()
    total = flat[0] + flat[1] if seed is None else projected_sum(flat, orders).float()
    parts = total.split([named[n].numel() for n in trunk])
    found = {n: g.view_as(named[n]) for n, g in zip(trunk, parts, strict=True)}
    for name, loss in losses.items():
        own = [n for n in named if n.startswith(f"{name}.")]
        found |= dict(zip(own, gradient(loss, own), strict=True))
    return found


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_objectives_are_freed_of_their_conflicts_over_what_they_share(norm: str) -> None:
    """Heads keep their own gradients and do not count in any norm."""

    def host() -> TwoHeads:
        return TwoHeads(norm)

    options: dict[str, Any] = {"host": host, "loss": two_losses}
    expected = objectives_by_hand(norm, seed=4)
    assert close(gradients(PCGrad(generator(4)), [12], **options), expected, 1e-5)
    plain = objectives_by_hand(norm, seed=None)
    assert close(gradients(None, [12], **options), plain, 1e-5)
    assert not close(plain, expected, 1e-3)


def test_objectives_add_up_over_micro_batches() -> None:
    """The tasks are the objectives of the whole window, not each of its pieces'."""
    options: dict[str, Any] = {"host": lambda: TwoHeads("layer"), "loss": two_losses}
    whole = gradients(PCGrad(generator(4)), [12], **options)
    assert close(gradients(PCGrad(generator(4)), [5, 5, 2], **options), whole, 1e-5)


def test_running_statistics_move_once_a_forward() -> None:
    """Several products over one graph are still one forward."""
    buffers = []
    for aggregator in (None, PCGrad(generator())):
        grown = make_host(host=TwoHeads)
        grown.model.train()
        stepper(grown, aggregator, loss=two_losses).step([batch(12)], [RunningMetrics(CPU)], 1)
        buffers.append({n: b.clone() for n, b in grown.model.host.named_buffers()})
    assert same(*buffers)
    assert buffers[0]["norm.num_batches_tracked"].item() == 1


def test_objectives_weigh_as_given() -> None:
    logged = {"first": 3.0, "second": 1.0}
    options: dict[str, Any] = {"host": lambda: TwoHeads("layer")}

    def total(output: Any, targets: Tensor) -> Tensor:
        losses = two_losses(output, targets)
        return 0.75 * losses["first"] + 0.25 * losses["second"]

    found = gradients(Weighted(logged), [7, 5], loss=two_losses, **options)
    assert close(found, gradients(None, [12], loss=total, **options))


def test_an_objective_may_be_missing_or_constant() -> None:
    calls = []

    def some(output: Any, targets: Tensor) -> dict[str, Tensor]:
        losses = two_losses(output, targets)
        calls.append(1)
        return {"first": losses["first"], "constant": torch.tensor(2.0)} if len(calls) == 1 else losses

    found = gradients(PCGrad(generator()), [6, 6], host=TwoHeads, loss=some)
    assert len(calls) == 2
    assert found["second.weight"].abs().sum() > 0


def test_losses_that_depend_on_nothing_are_refused() -> None:

    def constant_loss(output: Any, targets: Tensor) -> dict[str, Tensor]:
        return {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}

    with pytest.raises(RuntimeError, match="no gradients available for aggregation"):
        gradients(PCGrad(generator()), [12], host=TwoHeads, loss=constant_loss)


def test_a_model_of_several_dtypes_is_refused() -> None:

    class Mixed(Host):
        def __init__(self) -> None:
            super().__init__()
            self.head.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(x).relu()).relu().double())

    with pytest.raises(ValueError, match="several dtypes"):
        gradients(PCGrad(generator()), [6, 6], host=Mixed)


def test_a_step_after_one_that_was_broken_off_knows_nothing_of_it() -> None:
    grown, other = make_host(), make_host()
    made, fresh = stepper(grown, PCGrad(generator())), stepper(other, PCGrad(generator()))
    x, y = batch(8)
    with pytest.raises(ValueError, match="batch_size"):
        made.step([(x, y), (x, y[:3])], [], 1)
    for each in (made, fresh):
        each.step(split((x, y.flip(0)), [4, 4]), [RunningMetrics(CPU)], 2)
    assert same(weights(grown.model), weights(other.model))


# -- seeds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["one", "two"])
def test_a_seed_in_isolation_changes_nothing_for_the_host(loss: str) -> None:
    """With dropout, clipping and accumulation, bit for bit, while the seed learns as usual."""
    host, criterion = (Host, LOSS) if loss == "one" else (TwoHeads, two_losses)

    def make() -> nn.Module:
        return host(dropout=0.3)

    alone, beside = make_host(host=make), make_host(host=make, isolation_steps=1000)
    beside.do(germinate("a", "mlp"))
    for grown in (alone, beside):
        torch.manual_seed(7)
        grown.model.train()
        made = stepper(grown, PCGrad(generator()), loss=criterion, clip_norm=0.05)
        for at in range(60):
            made.step(split(batch(32, seed=at), [12, 12, 8]), [RunningMetrics(CPU)], at)
    assert same(weights(alone.model.host), weights(beside.model.host))
    seed = beside.model.seed_module(beside.model.record("a", 0))
    assert not seed.taps
    objective = seed.objective()
    assert objective is not None
    assert objective < 0.99 * seed.stats[0].item()


def test_a_seed_in_isolation_hears_the_sum_of_the_objectives() -> None:
    """As without aggregation; several products over a graph are one update of the seed."""
    learnt = []
    for aggregator in (None, PCGrad(generator())):
        grown = make_host(host=lambda: TwoHeads("layer"), isolation_steps=1000)
        grown.do(germinate("a", "mlp"))
        grown.model.train()
        made = stepper(grown, aggregator, loss=two_losses)
        made.step(split(batch(12), [6, 6]), [RunningMetrics(CPU)], 1)
        (optimizer,) = grown.optimizers.isolated.values()
        assert len(optimizer.state) > 0
        learnt.append({n: t for n, t in weights(grown.model).items() if n.startswith("seeds.")})
    assert learnt[0].keys() == learnt[1].keys()
    assert all(torch.allclose(learnt[0][n], learnt[1][n], rtol=1e-4, atol=1e-6) for n in learnt[0])


def test_a_graft_in_mid_epoch_is_seen_at_the_next_step() -> None:
    """The joined seed's parameters take part from the first step on."""
    grown = make_host()
    made = stepper(grown, PCGrad(generator()), clip_norm=1.0)
    grown.model.train()
    made.step(split(batch(8), [4, 4]), [RunningMetrics(CPU)], 1)
    grown.do(germinate("a", "mlp"), step=1)
    seed = grown.model.seed_module(grown.model.record("a", 0))
    seed.set_alpha(0.5)
    before = {n: p.detach().clone() for n, p in seed.named_parameters()}
    for at in (2, 3, 4):
        made.step(split(batch(8, seed=at), [4, 4]), [RunningMetrics(CPU)], at)
    assert any(not torch.equal(before[n], p) for n, p in seed.named_parameters())


# -- waiting ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregator", [PCGrad(generator()), Mean(), Weighted({"first": 2, "second": 1})])
@pytest.mark.parametrize("loss", ["one", "two"])
def test_a_step_waits_for_no_value(aggregator: Aggregator, loss: str) -> None:
    """Neither the Gram matrix nor a count is read in the step."""
    host, criterion = (Host, LOSS) if loss == "one" else (TwoHeads, two_losses)
    grown = make_host(host=host)
    made = stepper(grown, aggregator, loss=criterion, clip_norm=0.5)
    grown.model.train()
    meter = RunningMetrics(CPU, aggregator.combine_losses)
    made.step(split(batch(8), [4, 4]), [meter], 1)
    with SyncDetector(set()) as waits:
        made.step(split(batch(8), [4, 4]), [meter], 2)
        assert waits.found == []
        meter.read()
    assert waits.found

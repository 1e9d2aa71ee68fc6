"""Every kind of loss and label: the same numbers at every batch size, the same verdicts at every scale."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.grown import Grown, make_host
from helpers.runs import germinate
from torch import Tensor, nn
from torch.nn import functional as F

from esper.config import SeedConfig, TolariaConfig
from esper.leyline import Impact
from esper.tamiyo.pruning import probability_above
from esper.tolaria.batches import BatchSource
from esper.tolaria.evaluator import Evaluator
from esper.tolaria.loss.criterion import Criterion
from esper.tolaria.loss.inspection import examine
from esper.tolaria.loss.objectives import from_model
from esper.tolaria.optimization.precision import Precision
from esper.tolaria.probe_batch import ProbeBatch
from esper.tolaria.task import Task, pair_adapter

CPU = torch.device("cpu")
SAMPLES, SIZES = 40, (1, 7, 32, 40)
Shape = tuple[int, ...]


class Reshaped(nn.Module):
    """A host whose head has any shape; with `own_loss` it returns its own loss."""

    def __init__(self, shape: Shape, squash: bool = False, own_loss: bool = False) -> None:
        super().__init__()
        self.a = nn.Linear(12, 12)
        self.head = nn.Linear(12, max(1, torch.Size(shape).numel()))
        self.shape, self.squash, self.own_loss = shape, squash, own_loss

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.a(x).relu()).reshape(len(x), *self.shape)
        out = out.sigmoid() if self.squash else out
        return out.square().mean() if self.own_loss else out


@dataclass
class Loader:
    """The samples in batches of one size."""

    x: Tensor
    y: Any
    batch_size: int

    @property
    def num_samples(self) -> int:
        return len(self.x)

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for at in range(start * self.batch_size, len(self.x), self.batch_size):
            part = slice(at, at + self.batch_size)
            y = {k: v[part] for k, v in self.y.items()} if isinstance(self.y, dict) else self.y[part]
            yield self.x[part], y


class Times(nn.Module):
    """Another loss times 10, which passes `reduction` on as a good wrapper does."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = CE() if inner is F.cross_entropy else inner
        inner = self.inner
        for name in ("reduction", "weight", "ignore_index", "divisor"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def forward(self, output: Any, targets: Any) -> Any:
        inner = copy.copy(self.inner)
        if hasattr(self, "reduction"):
            inner.reduction = self.reduction
        found = inner(output, targets)
        return {k: 10 * v for k, v in found.items()} if isinstance(found, dict) else 10 * found


class Focal(nn.CrossEntropyLoss):
    """Ignores its `reduction`."""

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        each = F.cross_entropy(output, targets, reduction="none")
        return ((1 - (-each).exp()) ** 2 * each).mean()


class WeightedFocal(nn.CrossEntropyLoss):
    """Ignores its `reduction`, and heeds its weights and ignored labels."""

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output, targets, self.weight, ignore_index=self.ignore_index) * 2


class Wrapper(nn.Module):
    """Has a `reduction` that it does not obey."""

    reduction = "mean"

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output, targets)


class Masked(nn.Module):
    """The mean squared error over the steps of sequences that a mask (last column) lets count."""

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        values, mask = targets.unbind(-1)
        return ((output - values).square() * mask).sum() / mask.sum()

    def divisor(self, targets: Tensor) -> Tensor:
        return targets[..., 1].sum()


class Temperature(nn.Module):
    """Has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output * self.scale, targets)


class Pairwise(nn.Module):
    """A ranking loss over all pairs of a batch: one value a pair with reduction none."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        difference = output[:, None] - output[None]
        found = F.softplus(-difference * (targets[:, None] - targets[None]).sign()).flatten()
        return found if self.reduction == "none" else found.mean()


def contrastive(output: Tensor, targets: Tensor) -> Tensor:
    """InfoNCE between the two halves of an embedding: every other sample is a negative."""
    one, other = F.normalize(output[:, :3]), F.normalize(output[:, 3:])
    return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(output)))


def objectives(output: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {"class": F.cross_entropy(output, targets), "size": output.square().mean()}


def by_hand(output: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(output, targets)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def numbers(*shape: int) -> Tensor:
    return torch.randn(SAMPLES, *shape, generator=generator())


def bits(*shape: int) -> Tensor:
    return (numbers(*shape) > 0.3).float()


def classes(count: int, *shape: int, ignored: int | None = None) -> Tensor:
    found = torch.randint(0, count, (SAMPLES, *shape), generator=generator())
    if ignored is not None:
        found[numbers(*shape) > 0.2] = ignored
    return found


def counts(*shape: int) -> Tensor:
    return torch.poisson(numbers(*shape).exp(), generator=generator())


def masked() -> Tensor:
    return torch.stack([numbers(5), bits(5)], dim=-1)


WEIGHT = torch.tensor([1.0, 9.0, 0.5])


@dataclass
class Case:
    """`steady`: the loss has the same value at all batch sizes. `samples`: its error is over samples."""

    loss: Any
    shape: Shape
    targets: Callable[[], Any]
    squash: bool = False
    own_loss: bool = False
    steady: bool = True
    samples: bool = True
    accuracy: bool = False


CE = nn.CrossEntropyLoss
CASES = {
    "cross-entropy": Case(CE(), (3,), lambda: classes(3), accuracy=True),
    "cross-entropy, summed": Case(CE(reduction="sum"), (3,), lambda: classes(3), accuracy=True),
    "class weights": Case(CE(weight=WEIGHT), (3,), lambda: classes(3), accuracy=True),
    "class weights, summed": Case(
        CE(weight=WEIGHT, reduction="sum"), (3,), lambda: classes(3), accuracy=True
    ),
    "ignored labels": Case(CE(), (3,), lambda: classes(3, ignored=-100), accuracy=True),
    "ignored class": Case(CE(ignore_index=1), (3,), lambda: classes(3), accuracy=True),
    "weights, ignored, smoothing": Case(
        CE(weight=WEIGHT, ignore_index=-1, label_smoothing=0.2),
        (3,),
        lambda: classes(3, ignored=-1),
        accuracy=True,
    ),
    "label smoothing": Case(CE(label_smoothing=0.1), (3,), lambda: classes(3), accuracy=True),
    "soft labels": Case(CE(weight=WEIGHT), (3,), lambda: numbers(3).softmax(1)),
    "nll with weights": Case(nn.NLLLoss(weight=WEIGHT), (3,), lambda: classes(3), accuracy=True),
    "margin": Case(nn.MultiMarginLoss(weight=WEIGHT), (3,), lambda: classes(3), accuracy=True),
    "functional": Case(F.cross_entropy, (3,), lambda: classes(3, ignored=-100), accuracy=True),
    "sequence": Case(CE(weight=WEIGHT), (3, 5), lambda: classes(3, 5, ignored=-100), accuracy=True),
    "segmentation": Case(CE(ignore_index=2), (3, 4, 4), lambda: classes(3, 4, 4), accuracy=True),
    "one logit": Case(
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])), (1,), lambda: bits(1), accuracy=True
    ),
    "one probability": Case(nn.BCELoss(), (), lambda: bits(), squash=True, accuracy=True),
    "multi-label": Case(nn.BCEWithLogitsLoss(weight=WEIGHT), (3,), lambda: bits(3), accuracy=True),
    "multi-label soft margin": Case(nn.MultiLabelSoftMarginLoss(), (3,), lambda: bits(3), accuracy=True),
    "squared error": Case(nn.MSELoss(), (2, 3), lambda: numbers(2, 3)),
    "squared error, summed": Case(nn.MSELoss(reduction="sum"), (2,), lambda: numbers(2)),
    "huber": Case(nn.HuberLoss(), (1,), lambda: numbers(1)),
    "counts": Case(nn.PoissonNLLLoss(), (1,), lambda: counts(1)),
    "divergence": Case(nn.KLDivLoss(reduction="batchmean"), (3,), lambda: numbers(3).softmax(1)),
    "focal that ignores reduction": Case(Focal(), (3,), lambda: classes(3), samples=False, accuracy=True),
    "weighted focal": Case(
        WeightedFocal(weight=WEIGHT), (3,), lambda: classes(3, ignored=-100), samples=False, accuracy=True
    ),
    "wrapper": Case(Wrapper(), (3,), lambda: classes(3, ignored=-100), samples=False, accuracy=True),
    "by hand": Case(by_hand, (3,), lambda: classes(3, ignored=-100), samples=False, accuracy=True),
    "declared mask": Case(Masked(), (5,), masked, samples=False),
    "parameter of its own": Case(Temperature(), (3,), lambda: classes(3), samples=False, accuracy=True),
    "objectives": Case(objectives, (3,), lambda: classes(3), samples=False),
    "from the model": Case(from_model, (3,), lambda: classes(3), own_loss=True, samples=False),
    "pairwise": Case(Pairwise(), (), lambda: numbers(), steady=False, samples=False),
    "contrastive": Case(contrastive, (6,), lambda: classes(3), steady=False, samples=False),
}


def grown_for(case: Case) -> Grown:
    """The case's host with a seed in it that does something; nothing changes it, so it is made once."""
    return _grown(case.shape, case.squash, case.own_loss)


@functools.cache
def _grown(*host: Any) -> Grown:
    grown = make_host(host=lambda: Reshaped(*host), targets=("a",), blend_steps=0)
    grown.do(germinate("a", "mlp"))
    seed = grown.model.seed_module(grown.model.record("a", 0))
    with torch.no_grad():
        for parameter in seed.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator()) * 0.3)
    seed.set_alpha(1.0)
    return grown


def criterion_of(grown: Grown, loss: Any, loader: Loader) -> Criterion:
    """What a run would find out about the loss."""
    config = TolariaConfig()
    config = replace(config, dataset=replace(config.dataset, name="own.data"))
    source = BatchSource(loader)
    seed = SeedConfig()
    task = Task(loss, pair_adapter, Precision(False, CPU), CPU)
    probe = ProbeBatch(grown.model, source, task, seed, rng_seed=0)
    parts: Any = SimpleNamespace(
        loss=loss, batch_adapter=pair_adapter, metric=None, data=SimpleNamespace(num_classes=None)
    )
    return examine(config, parts, probe)


class Found:
    """Loss and impact over all samples in batches of one size."""

    def __init__(self, case: Case, size: int, factor: int = 1) -> None:
        self.grown = grown_for(case)
        self.loader = Loader(numbers(12), case.targets(), size)
        loss = case.loss if factor == 1 else Times(case.loss)
        self.criterion = criterion_of(self.grown, loss, self.loader)
        task = Task(self.criterion, pair_adapter, Precision(False, CPU), CPU)
        self.evaluator = Evaluator(self.grown.model, task)
        evaluation = self.evaluator.run(self.loader.batches(0))
        self.loss, self.accuracy = evaluation.loss, evaluation.accuracy

    @functools.cached_property
    def impact(self) -> Impact:
        seed = self.grown.model.seed_module(self.grown.model.record("a", 0))
        return self.evaluator.impact(seed, lambda: self.loader.batches(0))

    @property
    def chance(self) -> float:
        return probability_above(self.impact, 0.005 * abs(self.loss))


@functools.cache
def found(name: str, size: int, factor: int = 1) -> Found:
    return Found(CASES[name], size, factor)


def whole(case: Case) -> float:
    """The loss of all samples as one batch, by the loss itself, per sample where it is a sum."""
    grown = grown_for(case)
    with torch.no_grad():
        output = grown.model.eval()(numbers(12))
        found = case.loss(output, case.targets())
    total = sum(found.values()) if isinstance(found, dict) else found
    return float(total) / (SAMPLES if getattr(case.loss, "reduction", "") == "sum" else 1)


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_that_of_all_samples_at_every_batch_size(name: str) -> None:
    case, expected = CASES[name], whole(CASES[name])
    for size in SIZES:
        here = found(name, size)
        if case.steady:
            assert here.loss == pytest.approx(expected, abs=1e-6, rel=1e-6), size
        assert (here.accuracy is not None) is case.accuracy
        # a single sample cannot be cut in two, so that nothing can be found out
        assert here.criterion.batch_dependent is not case.steady, size
        assert bool(here.criterion.notes) is here.criterion.batch_dependent


@pytest.mark.parametrize("name", CASES)
def test_the_error_of_an_impact_is_over_samples_or_says_that_it_is_not(name: str) -> None:
    case, small, large = CASES[name], found(name, 7).impact, found(name, 32).impact
    assert (small.error_over, large.error_over) == (("samples",) * 2 if case.samples else ("batches",) * 2)
    assert (small.error_values, large.error_values) == ((SAMPLES, SAMPLES) if case.samples else (6, 2))
    if case.steady:
        assert small.loss_gain == pytest.approx(large.loss_gain, abs=2e-6, rel=2e-6)
    if case.samples:
        assert small.loss_gain_error == pytest.approx(large.loss_gain_error, rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_verdict_is_the_same_for_ten_times_the_loss(name: str) -> None:
    once, often = found(name, 7), found(name, 7, factor=10)
    assert often.loss == pytest.approx(10 * once.loss, rel=1e-5)
    assert often.impact.loss_gain_error == pytest.approx(10 * once.impact.loss_gain_error, rel=1e-3)
    assert often.chance == pytest.approx(once.chance, abs=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_scaling_all_class_weights_changes_nothing(size: int) -> None:
    case = CASES["weights, ignored, smoothing"]
    scaled = replace(case, loss=CE(weight=WEIGHT * 1000, ignore_index=-1, label_smoothing=0.2))
    once, often = Found(case, size), Found(scaled, size)
    assert often.loss == pytest.approx(once.loss, rel=1e-6)
    assert often.impact.loss_gain_error == pytest.approx(once.impact.loss_gain_error, rel=1e-5)
    assert often.chance == pytest.approx(once.chance, abs=1e-6)

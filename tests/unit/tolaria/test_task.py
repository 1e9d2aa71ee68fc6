"""Averages over samples; batches, answers and losses of other forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.tolaria.loss.accuracy import Accuracy
from esper.tolaria.loss.divisors import class_divisor
from esper.tolaria.task import RunningMetrics, batch_length, pair_adapter, targets_to

CPU = torch.device("cpu")


def answers(samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(samples, 4, generator=generator)
    return output, torch.randint(0, 4, (samples,), generator=generator)


def metered(sizes: list[int], output: Tensor, targets: Tensor) -> RunningMetrics:
    meter = RunningMetrics(CPU)
    for part, truth in zip(output.split(sizes), targets.split(sizes), strict=True):
        meter.add(nn.functional.cross_entropy(part, truth), part, truth, len(truth))
    return meter


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_the_mean_does_not_depend_on_how_samples_are_batched(sizes: list[int]) -> None:
    output, targets = answers(sum(sizes))
    meter = metered(sizes, output, targets)
    loss, accuracy = meter.read()
    assert loss == pytest.approx(nn.functional.cross_entropy(output, targets).item(), rel=1e-5)
    assert accuracy == (output.argmax(1) == targets).sum().item() / len(targets)
    assert meter.samples == sum(sizes)


def test_before_the_first_sample_there_is_no_number() -> None:
    loss, accuracy = RunningMetrics(CPU).read()
    assert math.isnan(loss)
    assert accuracy is None


def test_a_meter_goes_into_a_checkpoint_and_back() -> None:
    output, targets = answers(20)
    whole = metered([5, 5, 5, 5], output, targets).read()
    half = metered([5, 5], output[:10], targets[:10])
    other = RunningMetrics(CPU)
    other.load_state_dict(half.state_dict())
    for part, truth in zip(output[10:].split(5), targets[10:].split(5), strict=True):
        other.add(nn.functional.cross_entropy(part, truth), part, truth, 5)
    assert other.read() == whole
    other.reset()
    assert math.isnan(other.read()[0])


def test_regression_has_a_loss_and_no_accuracy() -> None:
    meter = RunningMetrics(CPU)
    meter.add(torch.tensor(2.0), torch.zeros(3, 1), torch.zeros(3, 1), 3)
    assert meter.read() == (2.0, None)


def test_a_loss_in_half_precision_is_summed_in_full() -> None:
    meter = RunningMetrics(CPU)
    for _ in range(3000):
        meter.add(torch.tensor(1.0, dtype=torch.bfloat16), torch.zeros(1), torch.zeros(1), 1)
    assert meter.read()[0] == 1.0


@pytest.mark.parametrize(
    ("targets", "length"),
    [
        (torch.zeros(5), 5),
        (torch.zeros(5, 3), 5),
        (torch.tensor(1), 1),
        ({"boxes": torch.zeros(4, 2), "labels": torch.zeros(4)}, 4),
        ([torch.zeros(6), torch.zeros(6, 2)], 6),
        ((torch.zeros(2),), 2),
        (["a", "b", "c"], 3),
    ],
)
def test_the_length_of_a_batch_whatever_its_targets_are(targets: Any, length: int) -> None:
    assert batch_length(targets) == length


def test_ignored_labels_and_weights_are_divided_by_what_counts() -> None:
    """In batches of 5, one of them all ignored, as in one batch; only labels that count are answers."""
    output, targets = answers(20)
    targets[::3] = targets[5:10] = -100
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 1.0, 2.0]))
    meter, divisor = RunningMetrics(CPU, accuracy=Accuracy(ignore_index=-100)), class_divisor(loss)
    for part, truth in zip(output.split(5), targets.split(5), strict=True):
        meter.add(loss(part, truth), part, truth, 5, divisor.of_batch(truth, 5))
    found, accuracy = meter.read()
    counted = targets != -100
    assert found == pytest.approx(loss(output, targets).item(), abs=1e-6)
    assert accuracy == pytest.approx((output.argmax(1) == targets)[counted].float().mean().item())
    assert meter.samples == 20
    other = RunningMetrics(CPU)
    other.load_state_dict(meter.state_dict())
    assert other.read() == (found, accuracy)


def test_batches_in_which_nothing_counts_have_no_loss() -> None:
    meter = RunningMetrics(CPU, accuracy=Accuracy(ignore_index=-100))
    output, ignored = torch.zeros(3, 4), torch.full((3,), -100)
    meter.add(torch.tensor(math.nan), output, ignored, 3, class_divisor(nn.NLLLoss()).of_batch(ignored, 3))
    assert math.isnan(meter.read()[0])
    assert meter.read()[1] is None


def test_the_state_of_an_older_version_is_taken_up() -> None:
    meter = RunningMetrics(CPU)
    old = {"loss": torch.tensor(6.0), "hits": torch.tensor(2), "samples": 4, "judged": 4}
    meter.load_state_dict(old | {"objectives": {"a": torch.tensor(2.0)}, "objective_samples": {"a": 4}})
    assert meter.read() == (1.5, 0.5)
    assert meter.objectives() == {"a": 0.5}


def test_the_usual_batch_is_a_pair() -> None:
    inputs, targets = torch.zeros(2, 3), torch.zeros(2)
    assert pair_adapter((inputs, targets)) == ((inputs,), {}, targets)


def test_targets_follow_the_output_to_its_device() -> None:
    """With a device that every machine has, beside the processor: meta."""
    targets = torch.zeros(3)
    assert targets_to(targets, torch.zeros(3, 2)) is targets
    assert targets_to(targets, torch.zeros(3, 2, device="meta")).device.type == "meta"
    boxes = {"boxes": targets}
    assert targets_to(boxes, torch.zeros(3, device="meta")) is boxes

"""D6: averages over samples; D5: batches, answers and losses of other forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.tolaria.task import Meter, batch_length, follow, pair_form

CPU = torch.device("cpu")


def answers(samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(samples, 4, generator=generator)
    return output, torch.randint(0, 4, (samples,), generator=generator)


def metered(sizes: list[int], output: Tensor, targets: Tensor) -> Meter:
    meter = Meter(CPU)
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
    loss, accuracy = Meter(CPU).read()
    assert math.isnan(loss)
    assert accuracy is None


def test_a_meter_goes_into_a_checkpoint_and_back() -> None:
    output, targets = answers(20)
    whole = metered([5, 5, 5, 5], output, targets).read()
    half = metered([5, 5], output[:10], targets[:10])
    other = Meter(CPU)
    other.load_state_dict(half.state_dict())
    for part, truth in zip(output[10:].split(5), targets[10:].split(5), strict=True):
        other.add(nn.functional.cross_entropy(part, truth), part, truth, 5)
    assert other.read() == whole
    other.reset()
    assert math.isnan(other.read()[0])


def test_regression_has_a_loss_and_no_accuracy() -> None:
    meter = Meter(CPU)
    meter.add(torch.tensor(2.0), torch.zeros(3, 1), torch.zeros(3, 1), 3)
    assert meter.read() == (2.0, None)


def test_a_loss_in_half_precision_is_summed_in_full() -> None:
    meter = Meter(CPU)
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


@pytest.mark.parametrize(
    ("output", "targets", "expected"),
    [
        (torch.zeros(5, 3), torch.zeros(5, dtype=torch.long), True),
        (torch.zeros(5, 3), torch.zeros(5), False),
        (torch.zeros(5), torch.zeros(5, dtype=torch.long), False),
        (torch.zeros(5, 3, 2), torch.zeros(5, 2, dtype=torch.long), False),
        ({"logits": torch.zeros(5, 3)}, torch.zeros(5, dtype=torch.long), False),
    ],
)
def test_accuracy_is_for_scores_against_classes(output: Any, targets: Any, expected: bool) -> None:
    assert is_classification(output, targets) is expected


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.2), nn.NLLLoss(), nn.MultiMarginLoss()],
)
def test_a_loss_by_sample_has_the_same_mean_and_leaves_the_loss_alone(loss: Any) -> None:
    output, targets = answers(11)
    before = loss(output, targets)
    single = per_sample(loss)
    assert single is not None
    assert single(output, targets).shape == (11,)
    assert single(output, targets).mean().item() == pytest.approx(before.item(), rel=1e-5)
    assert loss.reduction == "mean"


def test_a_loss_over_many_values_is_averaged_within_a_sample() -> None:
    output, targets = torch.randn(5, 3, 2), torch.randn(5, 3, 2)
    single = per_sample(nn.MSELoss())
    assert single is not None
    assert torch.allclose(single(output, targets), (output - targets).square().flatten(1).mean(1))


def test_a_loss_that_cannot_say_it_by_sample_says_so() -> None:
    assert per_sample(nn.functional.cross_entropy) is None
    assert per_sample(nn.CrossEntropyLoss(reduction="sum")) is None


def test_the_usual_batch_is_a_pair() -> None:
    inputs, targets = torch.zeros(2, 3), torch.zeros(2)
    assert pair_form((inputs, targets)) == ((inputs,), {}, targets)


def test_targets_follow_the_output_to_its_device() -> None:
    """T14: with a device that every machine has, beside the processor: meta."""
    targets = torch.zeros(3)
    assert follow(targets, torch.zeros(3, 2)) is targets
    assert follow(targets, torch.zeros(3, 2, device="meta")).device.type == "meta"
    boxes = {"boxes": targets}
    assert follow(boxes, torch.zeros(3, device="meta")) is boxes

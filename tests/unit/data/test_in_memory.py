from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.data.in_memory import BatchPlan, InMemoryLoader, LoaderOptions
from esper.data.params import Augmentation
from esper.data.transforms import BatchTransform, Statistics

CPU = torch.device("cpu")


def loader_of(
    count: int,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    training: bool = True,
    augmented: bool = True,
) -> InMemoryLoader:
    """Images whose every pixel is the sample's number, so that a batch shows its samples."""
    numbers = torch.arange(count, dtype=torch.uint8)
    images = numbers.view(-1, 1, 1, 1).expand(count, 1, 4, 4).contiguous()
    asked = Augmentation(crop_padding=1, horizontal_flip=0.5) if augmented else Augmentation()
    transform = BatchTransform(Statistics((0.0,), (1.0,)), asked, seed=seed, device=CPU)
    return InMemoryLoader(
        images,
        torch.arange(count),
        transform,
        LoaderOptions(batch_size, seed, shuffle, training),
        device=CPU,
    )


sizes = st.integers(1, 60), st.integers(1, 20)


@given(*sizes, st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_has_every_sample_once_and_as_many_batches_as_it_says(
    count: int, batch_size: int, shuffle: bool, training: bool, seed: int, epoch: int
) -> None:
    """The partial last batch is included."""
    loader = loader_of(count, batch_size, seed=seed, shuffle=shuffle, training=training, augmented=False)
    batches = list(loader.batches(epoch))
    assert len(batches) == len(loader)
    assert (loader.num_samples, loader.batch_size) == (count, batch_size)
    together = torch.cat([targets for _, targets in batches])
    assert sorted(together.tolist()) == list(range(count))
    assert shuffle or together.tolist() == list(range(count))
    for inputs, targets in batches:
        assert torch.equal(inputs[:, 0, 0, 0].long(), targets), "inputs and targets stay together"
    assert all(len(targets) == batch_size for _, targets in batches[:-2])


@given(*sizes, st.booleans(), st.integers(0, 3), st.data())
def test_a_position_resumes_to_the_exact_next_batch(
    count: int, batch_size: int, shuffle: bool, epoch: int, data: st.DataObject
) -> None:
    loader = loader_of(count, batch_size, shuffle=shuffle)
    start = data.draw(st.integers(0, len(loader)))
    whole = list(loader.batches(epoch))
    tail = list(loader_of(count, batch_size, shuffle=shuffle).batches(epoch, start=start))
    assert len(tail) == len(whole) - start
    for (inputs, targets), (inputs_again, targets_again) in zip(whole[start:], tail, strict=True):
        assert torch.equal(inputs, inputs_again) and torch.equal(targets, targets_again)


def test_two_passes_at_once_do_not_disturb_each_other() -> None:
    loader = loader_of(20, 4)
    alone = [targets.tolist() for _, targets in loader.batches(1)]
    mixed = [first[1].tolist() for first, _ in zip(loader.batches(1), loader.batches(2), strict=True)]
    assert mixed == alone


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): tuple(torch.cat([t for _, t in loader_of(50, 8, seed=seed).batches(epoch)]).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4


def test_global_generators_are_neither_read_nor_moved() -> None:
    loader = loader_of(30, 7)
    reference = [inputs for inputs, _ in loader.batches(0)]
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        again = [inputs for inputs, _ in loader.batches(0)]
        assert all(torch.equal(one, other) for one, other in zip(reference, again, strict=True))
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("count", "batch_size", "training", "lengths"),
    [
        (9, 4, True, [4, 5]),  # batch norm cannot train on a last batch of one
        (9, 4, False, [4, 4, 1]),
        (10, 4, True, [4, 4, 2]),
        (3, 1, True, [1, 1, 1]),
        (1, 4, True, [1]),
    ],
)
def test_a_last_training_batch_of_one_is_merged_whether_shuffled_or_not(
    count: int, batch_size: int, training: bool, lengths: list[int], shuffle: bool
) -> None:
    plan = BatchPlan(count, LoaderOptions(batch_size, 0, shuffle, training))
    order = plan.order(0)
    batches = [order[where].tolist() for _, where in plan.slices(0)]
    assert [len(batch) for batch in batches] == lengths
    assert sorted(i for batch in batches for i in batch) == list(range(count)), "nothing is dropped"
    assert plan.count == len(lengths)


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 4)])
def test_a_position_that_does_not_exist_is_refused_at_once(epoch: int, start: int) -> None:
    with pytest.raises(ValueError, match=rf"epoch {epoch}, batch {start}\): an epoch has 3 batches"):
        loader_of(10, 4).batches(epoch, start)

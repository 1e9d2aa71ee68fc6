from __future__ import annotations

import multiprocessing
import random
import signal
from collections import namedtuple
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

from esper.data.in_memory import LoaderOptions
from esper.data.map_style import MapStyleLoader, to_device
from esper.data.params import Augmentation
from esper.data.transforms import BatchTransform, Statistics
from esper.errors import DataError

CPU = torch.device("cpu")
Pair = namedtuple("Pair", "left right")


class Noisy:
    """A dataset like many a user's: its transform draws from every global generator."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> dict[str, Any]:
        drawn = torch.rand(1), torch.tensor([np.random.rand()]), torch.tensor([random.random()])
        return {"x": torch.cat([torch.tensor([float(index)]), *drawn]), "y": index % 3}


def mixing_collate(samples: list[Any]) -> torch.Tensor:
    """Draws, like mixup."""
    return torch.stack([sample["x"] for sample in samples]) * torch.rand(1)


def loader_of(*, workers: int = 0, seed: int = 0, shuffle: bool = True, **kind: Any) -> MapStyleLoader:
    indices = torch.arange(2, 22)
    given = {"dataset": Noisy(), "indices": indices, "batch_size": 6, "training": True} | kind
    options = LoaderOptions(given.pop("batch_size"), seed, shuffle, given.pop("training"), workers)
    return MapStyleLoader(options=options, device=CPU, **given)


def drawn(loader: MapStyleLoader, epoch: int, start: int = 0) -> list[torch.Tensor]:
    return [batch["x"] for batch in loader.batches(epoch, start)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_epoch_has_the_samples_of_its_split() -> None:
    loader = loader_of()
    batches = drawn(loader, 0)
    assert (len(loader), loader.num_samples, loader.batch_size) == (4, 20, 6)
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]
    assert sorted(torch.cat(batches)[:, 0].tolist()) == list(range(2, 22))
    assert torch.cat(drawn(loader_of(shuffle=False), 0))[:, 0].tolist() == list(range(2, 22))


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_last_batch_of_one_is_merged_in_training_and_kept_in_evaluation(shuffle: bool) -> None:
    sizes = {}
    for training in (True, False):
        loader = loader_of(shuffle=shuffle, training=training, indices=torch.arange(13))
        batches = drawn(loader, 1)
        sizes[training] = [len(batch) for batch in batches]
        assert len(loader) == len(batches)
        assert sorted(torch.cat(batches)[:, 0].tolist()) == list(range(13))
        assert same(drawn(loader, 1, start=1), batches[1:])
    assert sizes == {True: [6, 7], False: [6, 6, 1]}


@pytest.mark.parametrize("workers", [1, 2])
def test_samples_are_the_same_whoever_loads_them(workers: int) -> None:
    """Random transforms depend on (seed, epoch, index), not on the number of workers."""
    assert same(drawn(loader_of(), 3), drawn(loader_of(workers=workers), 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_position_resumes_to_the_exact_next_batch(workers: int) -> None:
    whole = drawn(loader_of(), 1)
    for start in (1, 3, 4):
        assert same(drawn(loader_of(workers=workers), 1, start), whole[start:])


def test_skipping_reads_nothing() -> None:
    """Reaching a position costs no sample."""
    asked: list[int] = []

    class Counting(Noisy):
        def __getitem__(self, index: int) -> dict[str, Any]:
            asked.append(index)
            return super().__getitem__(index)

    assert len(list(loader_of(dataset=Counting()).batches(0, 3))) == 1
    assert len(asked) == 2


def test_seed_and_epoch_change_what_is_drawn() -> None:
    first = torch.cat(drawn(loader_of(shuffle=False), 0))
    for other in (drawn(loader_of(shuffle=False), 1), drawn(loader_of(shuffle=False, seed=1), 0)):
        assert not torch.isclose(first[:, 1:], torch.cat(other)[:, 1:]).any()
    assert len(torch.unique(first[:, 1])) == 20, "and each sample draws its own"


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_neither_read_nor_moved(workers: int) -> None:
    """Also where transforms and collate draw from them."""
    reference = list(loader_of(collate=mixing_collate).batches(0))
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        assert same(list(loader_of(collate=mixing_collate, workers=workers).batches(0)), reference)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


class Pictures:
    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.full((1, 4, 4), index, np.uint8), index


def test_image_batches_are_finished_like_those_on_the_device() -> None:
    transform = BatchTransform(Statistics((1.0,), (2.0,)), Augmentation(crop_padding=1), seed=0, device=CPU)
    loader = loader_of(dataset=Pictures(), transform=transform)
    whole = list(loader.batches(0))
    images, targets = whole[1]
    assert images.dtype == torch.float32 and images.shape == (6, 1, 4, 4)
    assert torch.equal(images[:, 0, 1, 1], (targets - 1) / 2)
    resumed = next(iter(loader.batches(0, 1)))
    assert torch.equal(resumed[0], images), "augmentation is seeded by the batch's own number"


class Broken(Noisy):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_reaches_the_user(workers: int) -> None:
    with pytest.raises(ValueError, match="sample 7 is broken"):
        list(loader_of(dataset=Broken(ValueError("sample 7 is broken")), workers=workers).batches(0))
    with pytest.raises(DataError) as caught:
        list(loader_of(dataset=Broken(DataError("a.png cannot be read")), workers=workers).batches(0))
    assert str(caught.value) == "a.png cannot be read", "a sentence, no traceback"


@pytest.mark.parametrize("dataset", [Noisy(), Broken(ValueError("broken"))])
def test_workers_end_with_their_iteration(dataset: Noisy) -> None:
    """Broken off or broken down: no process stays behind."""
    batches = loader_of(dataset=dataset, workers=2).batches(0)
    with suppress(ValueError):
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_an_interrupt_is_left_to_the_trainer_and_an_end_ends_a_worker() -> None:
    """The trainer's own handlers, which only set a flag, do not make its workers immortal."""

    class Handlers(Noisy):
        def __getitem__(self, index: int) -> dict[str, Any]:
            handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
            return {"x": torch.tensor([handlers == [signal.SIG_IGN, signal.SIG_DFL]])}

    old = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert all(bool(batch.all()) for batch in drawn(loader_of(dataset=Handlers(), workers=1), 0))
        assert not drawn(loader_of(dataset=Handlers()), 0)[0].any()
    finally:
        signal.signal(signal.SIGTERM, old)


def test_everything_in_a_batch_is_moved() -> None:
    meta = torch.device("meta")
    batch = {"a": torch.ones(2), "b": [torch.ones(1), ("text", 3)], "c": Pair(torch.ones(1), None)}
    moved = to_device(batch, meta)
    assert moved["a"].device == moved["b"][0].device == moved["c"].left.device == meta
    assert moved["b"][1] == ("text", 3) and isinstance(moved["c"], Pair)

    class Encoding:
        def to(self, device: torch.device) -> str:
            return f"moved to {device}"

    assert to_device([Encoding()], meta) == ["moved to meta"]

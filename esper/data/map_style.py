"""Batches of data that does not live on the device: a DataLoader with a position and streams of its own."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from esper.data.in_memory import BatchPlan
from esper.data.transforms import BatchTransform
from esper.errors import DataError
from esper.utils.streams import derive_seed

Collate = Callable[[list[Any]], Any]
Key = tuple[int, int]


class MapStyle(Protocol):
    """A dataset that is asked for its samples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@contextmanager
def isolated_rng() -> Iterator[None]:
    """What is drawn inside from the global generators of torch (CPU), numpy and random leaves no trace."""
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])


def seed_rng(seed: int) -> None:
    """Set the generators that a transform may draw from; those of accelerators are left alone."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class _SeededDataset(Dataset[Any]):
    """The user's dataset, every sample drawn under (seed, epoch, index): whoever loads it, it is the same.

    A batch is collated here as well, under a stream of its own, in case `collate` draws (mixes images).
    """

    def __init__(self, dataset: MapStyle, collate: Collate, seed: int) -> None:
        self._dataset = dataset
        self._collate = collate
        self._seed = seed

    def __getitems__(self, keys: Sequence[Key]) -> Any:
        try:
            with isolated_rng():
                return self._batch(keys)
        except DataError as error:
            return error  # raised where it is received: from a worker it would come wrapped in a traceback

    def _batch(self, keys: Sequence[Key]) -> Any:
        samples = []
        for epoch, index in keys:
            seed_rng(derive_seed(self._seed, "sample", epoch, index))
            samples.append(self._dataset[index])
        seed_rng(derive_seed(self._seed, "collate", *keys[0]))
        return self._collate(samples)


def _identity(batch: Any) -> Any:
    return batch


class _KeySampler(Sampler[list[Key]]):
    def __init__(self, plan: BatchPlan, indices: Tensor, epoch: int, start: int) -> None:
        self._plan, self._indices, self._epoch, self._start = plan, indices, epoch, start

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._indices[self._plan.order(self._epoch)]
        for _, where in self._plan.slices(self._start):
            yield [(self._epoch, index) for index in order[where].tolist()]


def _default_signals(worker: int) -> None:
    # A forked worker inherits the trainer's handlers, which only set a flag: it could not be ended, and
    # Ctrl-C is the trainer's to answer.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class MapStyleLoader:
    """Samples of a map-style dataset, collated by a DataLoader (in `num_workers` processes) and moved over.

    `indices` are the samples of this split, `training` says that it is trained on (see `BatchPlan`). A
    batch is what `collate` makes of a list of samples, every tensor in it on the device; `transform`, where
    given, turns its first element (uint8 images) into inputs.
    """

    def __init__(
        self,
        dataset: MapStyle,
        indices: Tensor,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        training: bool,
        device: torch.device,
        num_workers: int = 0,
        pin_memory: bool = False,
        collate: Collate | None = None,
        transform: BatchTransform | None = None,
    ) -> None:
        self._dataset = _SeededDataset(dataset, collate or default_collate, seed)
        self._indices = indices
        self._device = device
        self._num_workers = num_workers
        self._pin = pin_memory and device.type == "cuda"
        self._transform = transform
        self._plan = BatchPlan(len(indices), batch_size, seed=seed, shuffle=shuffle, training=training)

    @property
    def num_samples(self) -> int:
        return self._plan.num_samples

    @property
    def batch_size(self) -> int:
        return self._plan.batch_size

    def __len__(self) -> int:
        return self._plan.count

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """See `Loader.batches`. Workers live as long as the iterator."""
        self._plan.check_position(epoch, start)
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        loader: DataLoader[Any] = DataLoader(
            self._dataset,
            batch_sampler=_KeySampler(self._plan, self._indices, epoch, start),
            num_workers=self._num_workers,
            collate_fn=_identity,
            pin_memory=self._pin,
            worker_init_fn=_default_signals if self._num_workers else None,
            generator=torch.Generator(),  # else the DataLoader draws a base seed from the global one
        )
        iterator = iter(loader)
        try:
            for batch, loaded in enumerate(iterator, start):
                yield self._to_inputs(loaded, epoch, batch)
        finally:
            # After an error the iterator is alive in the traceback, and left to the garbage collector its
            # workers take 5 s to end; torch has no public way to end them.
            if self._num_workers:
                iterator._shutdown_workers()  # type: ignore[attr-defined]

    def _to_inputs(self, loaded: Any, epoch: int, batch: int) -> Any:
        if isinstance(loaded, DataError):
            raise loaded
        moved = to_device(loaded, self._device, non_blocking=self._pin)
        if self._transform is None:
            return moved
        images, targets = moved
        return self._transform(images, epoch, batch), targets


def to_device(batch: Any, device: torch.device, *, non_blocking: bool = False) -> Any:
    """`batch` with all it holds on the device: tensors, what has a `to` of its own, tuples, lists, dicts."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=non_blocking)
    if isinstance(batch, dict):
        return {key: to_device(value, device, non_blocking=non_blocking) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        items = [to_device(value, device, non_blocking=non_blocking) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch.to(device) if hasattr(batch, "to") else batch

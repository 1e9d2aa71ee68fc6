"""Batches of data that is not on the device: a DataLoader that can start at any batch, with separate RNG."""

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

from esper.data.in_memory import BatchPlan, LoaderOptions, PlannedLoader
from esper.data.transforms import BatchTransform
from esper.errors import DataError
from esper.utils.device_and_rng import derive_seed

Collate = Callable[[list[Any]], Any]
Key = tuple[int, int]


class MapStyle(Protocol):
    """Interface of a map-style dataset: samples by index, as in `torch.utils.data.Dataset`.

    A sample is (input, target): tensors, arrays or numbers, or anything that the dataset's own
    `collate(samples)` makes a batch of. An attribute `targets` or `labels` with an integer class for each
    sample makes the splits stratified.

    Example:
        >>> class Squares:
        ...     def __len__(self):
        ...         return 100
        ...
        ...     def __getitem__(self, index):
        ...         return torch.tensor([index / 100]), torch.tensor([index**2 / 1e4])
        >>> [tuple(part.shape) for part in default_collate([Squares()[0], Squares()[1]])]
        [(2, 1), (2, 1)]
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Context: restores the global generators of torch (CPU), numpy and random afterwards."""
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])


def seed_rng(seed: int) -> None:
    """Seed the global generators that a transform may draw from, except those of accelerators."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class _SeededDataset(Dataset[Any]):
    """A dataset whose samples depend on (seed, epoch, index) only, in whichever process they are loaded.

    Batches are collated here too, with a separate seed, because `collate` may draw random numbers (MixUp).
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
            return error  # raised by the receiver: a worker would wrap it in a traceback

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
    # A forked worker inherits the trainer's handlers, which only set a flag: it could not be terminated.
    # Ctrl-C is handled by the trainer.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class MapStyleLoader(PlannedLoader):
    """Loader of a map-style dataset, through a DataLoader.

    Args:
        dataset: the samples.
        indices: int64 indices of the samples of this split.
        options: batches, their order, and loading.
        device: every tensor of a batch is moved there.
        collate: makes a batch of a list of samples; None is torch's `default_collate`.
        transform: maps the first element of a batch (uint8 images) to inputs.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.randn(8, 2), torch.arange(8))
        >>> options = LoaderOptions(batch_size=4, seed=0, shuffle=False, training=False)
        >>> len(MapStyleLoader(data, torch.arange(8), options, device=torch.device("cpu")))
        2
    """

    def __init__(
        self,
        dataset: MapStyle,
        indices: Tensor,
        options: LoaderOptions,
        *,
        device: torch.device,
        collate: Collate | None = None,
        transform: BatchTransform | None = None,
    ) -> None:
        super().__init__(len(indices), options)
        self._dataset = _SeededDataset(dataset, collate or default_collate, options.seed)
        self._indices = indices
        self._device = device
        self._num_workers = options.num_workers
        self._pin = options.pin_memory and device.type == "cuda"
        self._transform = transform

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
            generator=torch.Generator(),  # otherwise the DataLoader draws a seed from the global generator
        )
        iterator = iter(loader)
        try:
            for batch, loaded in enumerate(iterator, start):
                yield self._to_inputs(loaded, epoch, batch)
        finally:
            # After an error the traceback keeps the iterator alive, and its workers would take 5 s to end
            # when it is garbage-collected; torch has no public way to end them.
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
    """Return `batch` on the device: tensors, objects with a method `to`, and tuples, lists, dicts of them."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=non_blocking)
    if isinstance(batch, dict):
        return {key: to_device(value, device, non_blocking=non_blocking) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        items = [to_device(value, device, non_blocking=non_blocking) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch.to(device) if hasattr(batch, "to") else batch

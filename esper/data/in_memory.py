"""Batches with a position: what comes at (epoch, batch) is a function of the seed and of that alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from esper.data.transforms import BatchTransform
from esper.utils.streams import derive_seed


class Loader(Protocol):
    """What the training loop knows of data; `batch_size` is that of all batches but the last."""

    @property
    def num_samples(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    def __len__(self) -> int:
        """Batches an epoch, the partial last one included."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Batches `start`, `start + 1`, ... of an epoch, on the device; the global generators stay untouched.

        Reaching `start` takes the same time for any `start`. Raises `ValueError` for one past the end.
        """
        ...


class BatchPlan:
    """Which samples, by their place in the split, are in which batch of which epoch.

    With `training`, a last batch of one sample is merged into the batch before it, shuffled or not: batch
    norm cannot train on one sample, and none is dropped. Without, every batch but the last has `batch_size`.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int, shuffle: bool, training: bool
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        single = training and batch_size > 1 and num_samples > batch_size and num_samples % batch_size == 1
        self.count = -(-num_samples // batch_size) - int(single)

    def order(self, epoch: int) -> Tensor:
        """(num_samples,) int64 on the CPU."""
        if not self._shuffle:
            return torch.arange(self.num_samples)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "order", epoch))
        return torch.randperm(self.num_samples, generator=generator)

    def slices(self, start: int) -> Iterator[tuple[int, slice]]:
        """(batch, its slice of the order) from batch `start` on."""
        for batch in range(start, self.count):
            end = self.num_samples if batch == self.count - 1 else (batch + 1) * self.batch_size
            yield batch, slice(batch * self.batch_size, end)

    def check_position(self, epoch: int, start: int) -> None:
        """Raise `ValueError` unless batch `start` exists or is the end of the epoch."""
        if epoch < 0 or not 0 <= start <= self.count:
            raise ValueError(
                f"no position (epoch {epoch}, batch {start}): an epoch has {self.count} batches, from 0 on"
            )


class InMemoryLoader:
    """A small image set that lives on the device as bytes; nothing is copied from the host in a step.

    images: uint8 (count, channels, height, width); targets: int64 (count,). A batch is (inputs, targets):
    float32 (batch, channels, height, width) and int64 (batch,). `training` says that these batches are
    trained on; see `BatchPlan`.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        transform: BatchTransform,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        training: bool,
        device: torch.device,
    ) -> None:
        self._images = images.to(device)
        self._targets = targets.to(device)
        self._transform = transform
        self._plan = BatchPlan(len(images), batch_size, seed=seed, shuffle=shuffle, training=training)

    @property
    def num_samples(self) -> int:
        return self._plan.num_samples

    @property
    def batch_size(self) -> int:
        return self._plan.batch_size

    def __len__(self) -> int:
        return self._plan.count

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Loader.batches`."""
        self._plan.check_position(epoch, start)
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._plan.order(epoch).to(self._images.device)
        for batch, where in self._plan.slices(start):
            chosen = order[where]
            images = self._images.index_select(0, chosen)
            yield self._transform(images, epoch, batch), self._targets.index_select(0, chosen)

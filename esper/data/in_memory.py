"""The loader interface, and the in-memory loader: a batch depends on (seed, epoch, batch) only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from esper.data.transforms import BatchTransform
from esper.utils.device_and_rng import derive_seed


class Loader(Protocol):
    """Interface of a loader: batches of an epoch, from any position on.

    Example:
        >>> for inputs, targets in loader.batches(epoch=0, start=3):  # doctest: +SKIP
        ...     loss = criterion(model(inputs), targets)
    """

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples of every batch but the last."""
        ...

    def __len__(self) -> int:
        """Return the batches of an epoch, including a partial last one."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Iterate over batches `start`, `start + 1`, ... of an epoch, on the device.

        The global generators are restored, and reaching `start` takes the same time for any `start`.

        Args:
            epoch: number of the epoch, from 0.
            start: number of the first batch.

        Returns:
            An iterator over batches, usually (inputs, targets).

        Raises:
            ValueError: `start` is past the end of the epoch.
        """
        ...


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How the samples of a split are put into batches, and loaded.

    Args:
        batch_size: samples per batch.
        seed: seed of order, samples and collation.
        shuffle: whether each epoch has another order.
        training: whether the batches are trained on; see `BatchPlan`.
        num_workers: loading processes; 0 loads in this process.
        pin_memory: pin host memory; for CUDA only.
    """

    batch_size: int
    seed: int
    shuffle: bool
    training: bool
    num_workers: int = 0
    pin_memory: bool = False


class BatchPlan:
    """The samples of each batch of each epoch, as positions in the split.

    With `training`, a last batch of one sample is merged into the batch before it, shuffled or not: batch
    norm cannot train on one sample, and no sample is dropped. Otherwise every batch but the last has
    `batch_size` samples.
    """

    def __init__(self, num_samples: int, options: LoaderOptions) -> None:
        batch_size = options.batch_size
        self.num_samples = num_samples
        self.batch_size = batch_size
        self._seed = options.seed
        self._shuffle = options.shuffle
        single = (
            options.training and batch_size > 1 and num_samples > batch_size and num_samples % batch_size == 1
        )
        self.count = -(-num_samples // batch_size) - int(single)

    def order(self, epoch: int) -> Tensor:
        """Return the order of an epoch, (num_samples,) int64 on the CPU."""
        if not self._shuffle:
            return torch.arange(self.num_samples)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "order", epoch))
        return torch.randperm(self.num_samples, generator=generator)

    def slices(self, start: int) -> Iterator[tuple[int, slice]]:
        """Yield (batch, its slice of the order) from batch `start` on."""
        for batch in range(start, self.count):
            end = self.num_samples if batch == self.count - 1 else (batch + 1) * self.batch_size
            yield batch, slice(batch * self.batch_size, end)

    def check_position(self, epoch: int, start: int) -> None:
        """Raise `ValueError` unless batch `start` exists or is the end of the epoch."""
        if epoch < 0 or not 0 <= start <= self.count:
            raise ValueError(
                f"no position (epoch {epoch}, batch {start}): an epoch has {self.count} batches, from 0 on"
            )


class PlannedLoader:
    """What loaders share: the sizes that the plan of their batches has."""

    def __init__(self, num_samples: int, options: LoaderOptions) -> None:
        self._plan = BatchPlan(num_samples, options)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return self._plan.num_samples

    @property
    def batch_size(self) -> int:
        """Samples of every batch but the last."""
        return self._plan.batch_size

    def __len__(self) -> int:
        return self._plan.count


class InMemoryLoader(PlannedLoader):
    """Loader of an image set that is kept on the device as bytes, so that no step copies from the host.

    A batch is (inputs, targets): float32 (batch, channels, height, width) and int64 (batch,).

    Args:
        images: uint8 (count, channels, height, width).
        targets: int64 (count,).
        transform: augmentation and normalisation.
        options: batches and their order.
        device: where the images are kept.

    Example:
        >>> loader = InMemoryLoader(images, targets, transform, options, device=device)  # doctest: +SKIP
        >>> inputs, targets = next(loader.batches(epoch=0))  # doctest: +SKIP
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        transform: BatchTransform,
        options: LoaderOptions,
        *,
        device: torch.device,
    ) -> None:
        super().__init__(len(images), options)
        self._images = images.to(device)
        self._targets = targets.to(device)
        self._transform = transform

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

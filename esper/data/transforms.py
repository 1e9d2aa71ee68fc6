"""Augmentation and normalisation of uint8 images, a whole batch at once, on the batch's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from esper.data.params import Augmentation
from esper.utils.device_and_rng import derive_seed


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of each channel, in grey levels (0 to 255)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def channel_statistics(images: Tensor) -> Statistics:
    """Return the statistics of uint8 images (count, channels, height, width); exact, from a histogram.

    A constant channel gets the deviation 1, so that it is normalised to zero.
    """
    levels = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].flatten().cpu(), minlength=256).double()
        share /= share.sum()
        mean = float(share @ levels)
        deviation = float(share @ (levels - mean).square()) ** 0.5
        means.append(mean)
        deviations.append(deviation or 1.0)
    return Statistics(tuple(means), tuple(deviations))


class BatchTransform:
    """Transforms a batch of uint8 images to normalised float32; augments it where the augmentation is active.

    Random numbers depend on (seed, epoch, batch) only.

    Args:
        statistics: mean and deviation of each channel.
        augmentation: the augmentation.
        seed: seed of the augmentation.
        device: device of the batches.
    """

    def __init__(
        self, statistics: Statistics, augmentation: Augmentation, *, seed: int, device: torch.device
    ) -> None:
        self._augmentation = augmentation
        self._seed = seed
        self._scale = _column([1 / std for std in statistics.std], device)
        self._shift = _column(
            [-mean / std for mean, std in zip(statistics.mean, statistics.std, strict=True)], device
        )

    def __call__(self, images: Tensor, epoch: int, batch: int) -> Tensor:
        if self._augmentation.active:
            generator = torch.Generator(images.device)
            generator.manual_seed(derive_seed(self._seed, "augment", epoch, batch))
            images = augment(images, self._augmentation, generator)
        return images.float().mul_(self._scale).add_(self._shift)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop, mirror and cut out, with separate random numbers for each image.

    Args:
        images: (batch, channels, height, width); not modified.
        augmentation: the augmentation.
        generator: a generator on the images' device.

    Returns:
        Images of the same shape, dtype and device.
    """
    if augmentation.crop_padding:
        images = _crop(images, augmentation.crop_padding, generator)
    if augmentation.horizontal_flip:
        draw = torch.rand(len(images), generator=generator, device=images.device)
        chosen = draw < augmentation.horizontal_flip
        images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    if augmentation.cutout:
        images = _cut_out(images, augmentation.cutout, generator)
    return images


def _crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    # a view of all possible crops: selecting one per image is five times faster than pixel indices
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    corner = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=images.device)
    return crops[torch.arange(count, device=images.device), :, corner[0], corner[1]]


def _cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set a square to zero whose centre is anywhere in the image, so that it may cross the border."""
    count, _, height, width = images.shape
    draw = torch.rand(2, count, 1, generator=generator, device=images.device)
    rows = _near(draw[0] * height, height, side)
    columns = _near(draw[1] * width, width, side)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _near(centre: Tensor, length: int, side: int) -> Tensor:
    """Return a mask (count, length) of the `side` pixels around each centre."""
    start = centre.floor() - side // 2
    position = torch.arange(length, device=centre.device)
    return (position >= start) & (position < start + side)

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.data.params import Augmentation
from esper.data.transforms import BatchTransform, Statistics, augment, channel_statistics

CPU = torch.device("cpu")
shapes = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(4, 9), st.integers(4, 9))


def images_of(shape: tuple[int, ...], low: int = 1) -> torch.Tensor:
    return torch.randint(low, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(shapes, st.integers(0, 3), st.floats(0, 1), st.integers(0, 4), st.integers(0, 9))
def test_augmentation_keeps_shape_type_and_its_input(
    shape: tuple[int, ...], padding: int, flip: float, cutout: int, seed: int
) -> None:
    images = images_of(shape)
    before = images.clone()
    asked = Augmentation(crop_padding=padding, horizontal_flip=flip, cutout=cutout)
    result = augment(images, asked, generator(seed))
    assert result.shape == images.shape and result.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(result, augment(images, asked, generator(seed)))
    assert asked.active or torch.equal(result, images)


@given(shapes, st.integers(1, 3), st.integers(0, 9))
def test_a_crop_is_a_shift_with_zeros(shape: tuple[int, ...], padding: int, seed: int) -> None:
    """Each image is one of the shifts of its original, all channels alike."""
    images = images_of(shape)
    for image, cropped in zip(
        images, augment(images, Augmentation(crop_padding=padding), generator(seed)), strict=True
    ):
        padded = torch.nn.functional.pad(image, (padding,) * 4)
        reach = range(2 * padding + 1)
        height, width = shape[2:]
        shifts = [padded[:, y : y + height, x : x + width] for y in reach for x in reach]
        assert any(torch.equal(cropped, shift) for shift in shifts)


def test_images_of_a_batch_are_shifted_each_in_its_own_way() -> None:
    image = images_of((1, 1, 8, 8)).expand(200, 1, 8, 8)
    cropped = augment(image, Augmentation(crop_padding=1), generator())
    assert len(torch.unique(cropped.flatten(1), dim=0)) == 9


@pytest.mark.parametrize(("probability", "low", "high"), [(1.0, 400, 400), (0.25, 70, 130), (0.0, 0, 0)])
def test_a_share_of_the_images_is_mirrored(probability: float, low: int, high: int) -> None:
    images = images_of((400, 1, 6, 6))
    result = augment(images, Augmentation(horizontal_flip=probability), generator())
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    unchanged = (result == images).flatten(1).all(1)
    assert bool((mirrored | unchanged).all())
    assert low <= int(mirrored.sum()) <= high


def test_cutout_blanks_a_square_of_all_channels() -> None:
    images = images_of((300, 3, 8, 8))
    blank = augment(images, Augmentation(cutout=3), generator()) == 0
    assert torch.equal(blank[:, 0], blank[:, 1]) and torch.equal(blank[:, 0], blank[:, 2])
    area = blank[:, 0].flatten(1).sum(1)
    assert int(area.max()) == 9 and int(area.min()) >= 4, "whole inside the image, smaller over its border"


def test_statistics_are_those_of_the_channels() -> None:
    images = images_of((50, 3, 4, 5), low=0)
    statistics = channel_statistics(images)
    values = images.double().transpose(0, 1).flatten(1)
    assert statistics.mean == pytest.approx(values.mean(1).tolist())
    assert statistics.std == pytest.approx(values.std(1, correction=0).tolist())


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    statistics = channel_statistics(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8))
    assert statistics == Statistics((7.0,), (1.0,))


def test_finished_images_are_normalised_floats() -> None:
    images = images_of((64, 3, 6, 6), low=0)
    transform = BatchTransform(channel_statistics(images), Augmentation(), seed=0, device=CPU)
    result = transform(images, 0, 0)
    assert result.dtype == torch.float32
    assert torch.allclose(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(result.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_what_is_drawn_depends_on_seed_epoch_and_batch() -> None:
    images = images_of((32, 1, 8, 8))
    asked = Augmentation(crop_padding=2, horizontal_flip=0.5)

    def finished(seed: int, epoch: int, batch: int) -> torch.Tensor:
        return BatchTransform(Statistics((0.0,), (1.0,)), asked, seed=seed, device=CPU)(images, epoch, batch)

    first = finished(0, 1, 2)
    assert torch.equal(first, finished(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(first, finished(*other))

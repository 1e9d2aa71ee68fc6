from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import idx_bytes, write_cifar10, write_cifar100, write_idx

from esper.data.datasets import load_digits, load_files, synthesize
from esper.data.params import FileParams, SyntheticParams
from esper.errors import DataError


def test_cifar10_is_five_batches_and_a_test_batch(tmp_path: Path) -> None:
    write_cifar10(tmp_path, per_file=20)
    source = load_files("cifar10", tmp_path, FileParams(), download=False)
    assert source.train.pixels.shape == (100, 3, 32, 32) and source.train.labels.dtype == np.int64
    assert source.test is not None and len(source.test.labels) == 20
    assert source.origin == str(tmp_path / "cifar-10-batches-bin")


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    write_cifar100(tmp_path, train=300, test=100)
    source = load_files("cifar100", tmp_path, FileParams(), download=False)
    assert set(source.train.labels) == set(range(100))
    assert source.test is not None and list(source.test.labels) == list(range(100))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_sets_have_one_channel(tmp_path: Path, name: str) -> None:
    write_idx(tmp_path / name, train=60, test=20)
    source = load_files(name, tmp_path, FileParams(), download=False)
    assert source.train.pixels.shape == (60, 1, 28, 28)
    assert source.test is not None and source.test.pixels.shape == (20, 1, 28, 28)


def test_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "mnist", train=60, test=20, compressed=False)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(19, np.uint8)))
    with pytest.raises(DataError, match=r"holds 20 images, .*t10k-labels-idx1-ubyte 19 labels"):
        load_files("mnist", tmp_path, FileParams(), download=False)


def test_idx_labels_are_checked(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "mnist", train=60, test=20, compressed=False)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(20, 11, np.uint8)))
    with pytest.raises(DataError, match="record 0 has the label 11; the last class is 9"):
        load_files("mnist", tmp_path, FileParams(), download=False)


def test_digits_fill_the_range_of_bytes() -> None:
    source = load_digits()
    assert source.train.pixels.shape == (1797, 1, 8, 8) and source.test is None
    assert len(np.unique(source.train.pixels)) == 17 and source.train.pixels.max() == 255
    assert set(source.train.labels) == set(range(10))


def test_synthetic_images_follow_from_their_seed_alone() -> None:
    params = SyntheticParams(num_classes=3, channels=2, image_size=(5, 7), samples=31)
    one, same, other = (synthesize(p).train for p in (params, params, replace(params, data_seed=1)))
    assert one.pixels.shape == (31, 2, 5, 7)
    assert np.array_equal(one.pixels, same.pixels) and not np.array_equal(one.pixels, other.pixels)
    assert set(np.bincount(one.labels)) == {10, 11}


def nearest_mean_accuracy(separation: float) -> float:
    images = synthesize(
        SyntheticParams(num_classes=4, image_size=6, samples=800, separation=separation)
    ).train
    flat = images.pixels.reshape(800, -1).astype(float)
    means = np.stack([flat[:400][images.labels[:400] == label].mean(0) for label in range(4)])
    guess = np.argmin(((flat[400:, None] - means) ** 2).sum(2), 1)
    return float(np.mean(guess == images.labels[400:]))


def test_separation_is_how_far_the_classes_are_apart() -> None:
    assert nearest_mean_accuracy(0.0) < 0.4
    assert 0.5 < nearest_mean_accuracy(0.15) < 0.95
    assert nearest_mean_accuracy(1.0) == 1.0

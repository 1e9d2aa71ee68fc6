"""Raw data of the named datasets: uint8 images and their classes. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from esper.data.catalogue import FILE_SETS, FileSet
from esper.data.files import fetch_dataset, path_of
from esper.data.formats import Bytes, check_labels, read_cifar, read_idx
from esper.data.params import FileParams, SyntheticParams, size_of
from esper.errors import DataError
from esper.utils.device_and_rng import derive_seed


@dataclass(frozen=True, slots=True)
class Images:
    """`pixels` (count, channels, height, width), `labels` (count,) int64."""

    pixels: Bytes
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset before it is split; `test` is its separate test set, `origin` where it was found."""

    train: Images
    test: Images | None
    origin: str


def load_files(name: str, data_root: Path, params: FileParams, *, download: bool) -> Source:
    """Load a set in files (cifar10, cifar100, fashion_mnist, mnist).

    Args:
        name: name of the set.
        data_root: folder of all datasets.
        params: its `dataset_params`.
        download: whether missing files may be downloaded.

    Raises:
        DataError: the files are missing or damaged.
    """
    files = FILE_SETS[name]
    folder = fetch_dataset(files, data_root, download=download, mirror=params.mirror)
    train, test = (_read_cifar if files.archive else _read_idx)(files, folder)
    return Source(train, test, str(folder))


def _read_cifar(files: FileSet, folder: Path) -> tuple[Images, Images]:
    classes = files.info.num_classes or 0
    parts = [read_cifar(folder / name, files.label_bytes, classes) for name in files.files]
    pixels, labels = zip(*parts[:-1], strict=True)
    return _images(np.concatenate(pixels), np.concatenate(labels)), _images(*parts[-1])


def _read_idx(files: FileSet, folder: Path) -> tuple[Images, Images]:
    parts = []
    for images_name, labels_name in (files.files[:2], files.files[2:]):
        images_path, labels_path = path_of(folder, images_name), path_of(folder, labels_name)
        assert images_path is not None and labels_path is not None, "obtain() returns complete folders"
        pixels = read_idx(images_path, files.info.image_size or ())
        labels = read_idx(labels_path, ())
        if len(pixels) != len(labels):
            raise DataError(f"{images_path} holds {len(pixels)} images, {labels_path} {len(labels)} labels")
        check_labels(labels_path, labels, files.info.num_classes or 0)
        parts.append(_images(pixels[:, None], labels))
    return parts[0], parts[1]


def _images(pixels: Bytes, labels: Bytes) -> Images:
    return Images(pixels, labels.astype(np.int64))


def load_digits() -> Source:
    """Load the 1,797 handwritten digits of scikit-learn; their 17 grey levels are scaled to 0 to 255."""
    # imported here: it takes most of a second, and only this dataset needs it
    from sklearn import datasets

    levels, labels = datasets.load_digits(return_X_y=True)
    pixels = np.rint(levels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Source(Images(pixels, labels.astype(np.int64)), None, "scikit-learn")


def synthesize(params: SyntheticParams) -> Source:
    """Generate Gaussian noise around one random pattern per class, in grey levels; classes of equal size."""
    rng = np.random.default_rng(derive_seed(params.data_seed, "synthetic"))
    shape = (params.channels, *size_of(params.image_size))
    patterns = rng.standard_normal((params.num_classes, *shape))
    patterns *= params.separation / np.sqrt(np.mean(np.square(patterns), axis=(1, 2, 3), keepdims=True))
    labels = np.arange(params.samples, dtype=np.int64) % params.num_classes
    levels = 128 + 32 * (patterns[labels] + rng.standard_normal((params.samples, *shape)))
    return Source(Images(np.clip(np.rint(levels), 0, 255).astype(np.uint8), labels), None, "its data_seed")

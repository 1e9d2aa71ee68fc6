"""Tiny datasets in the official formats, written where a test wants them."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CIFAR10_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
CIFAR100_FILES = ("train.bin", "test.bin")


def cifar_records(count: int, *, classes: int = 10, label_bytes: int = 1, seed: int = 0) -> bytes:
    """Records with the classes in turn; images of a class have their own bright area."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 100, (count, 3, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row = 3 * (label % 10)
        image[label % 3, row : row + 4] += 120
    coarse = [labels // 5] * (label_bytes - 1)
    columns = [*coarse, labels]
    return np.hstack([np.stack(columns, 1).astype(np.uint8), images.reshape(count, -1)]).tobytes()


def write_cifar10(data_root: Path, *, per_file: int = 20, seed: int = 0) -> Path:
    """The six files of CIFAR-10's binary distribution, `per_file` images each; returns their folder."""
    folder = data_root / "cifar-10-batches-bin"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(CIFAR10_FILES):
        (folder / name).write_bytes(cifar_records(per_file, seed=seed + number))
    return folder


def write_cifar100(data_root: Path, *, train: int = 300, test: int = 100, seed: int = 0) -> Path:
    """The two files of CIFAR-100's binary distribution; returns their folder."""
    folder = data_root / "cifar-100-binary"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, count) in enumerate(zip(CIFAR100_FILES, (train, test), strict=True)):
        records = cifar_records(count, classes=100, label_bytes=2, seed=seed + number)
        (folder / name).write_bytes(records)
    return folder


def pack(folder: Path, archive: Path) -> str:
    """Pack a folder as the official archives are packed; returns the archive's MD5."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return md5_of(archive.read_bytes())


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    """An array as an IDX file of unsigned bytes."""
    return struct.pack(f">I{values.ndim}I", 0x0800 | values.ndim, *values.shape) + values.tobytes()


def write_idx(
    folder: Path, *, train: int = 60, test: int = 20, compressed: bool = True, seed: int = 0
) -> Path:
    """The four files of MNIST or Fashion-MNIST, 28 x 28 pixels, the classes in turn; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("t10k", test)):
        arrays = {
            f"{part}-images-idx3-ubyte": rng.integers(0, 256, (count, 28, 28), dtype=np.uint8),
            f"{part}-labels-idx1-ubyte": (np.arange(count) % 10).astype(np.uint8),
        }
        for name, values in arrays.items():
            content = idx_bytes(values)
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)
    return folder


def write_image_folder(
    root: Path, *, classes: int = 3, per_class: int = 8, size: tuple[int, int] = (20, 14)
) -> Path:
    """PNG files in a folder for each class, of a colour of its own; `size` is (width, height)."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = rng.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
            pixels[..., label % 3] += 150
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root

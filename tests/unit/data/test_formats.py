from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import cifar_records, idx_bytes

from esper.data.formats import cifar_count, idx_shape, read_cifar, read_idx
from esper.errors import DataError

IMAGES = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_round_trips(tmp_path: Path, suffix: str) -> None:
    """Plain and compressed."""
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(idx_bytes(IMAGES)) if suffix else idx_bytes(IMAGES))
    assert np.array_equal(read_idx(path, (28, 28)), IMAGES)
    assert idx_shape(path, (28, 28)) == (3, 28, 28)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing; an IDX file of 3 dimensions of bytes begins with 00000803"),
        (idx_bytes(IMAGES[0, 0]), "begins with 00000801"),
        (b"PK\3\4" * 10, "begins with 504b0304"),
        (idx_bytes(IMAGES[:, :14]), "has the shape 3 x 14 x 28; expected N x 28 x 28"),
        (idx_bytes(IMAGES[:0]), "has the shape 0 x 28 x 28"),
        (idx_bytes(IMAGES)[:-1], "holds 2351 bytes after its header, which promises 2352"),
        (idx_bytes(IMAGES) + b"x", "holds 2353 bytes"),
    ],
)
def test_a_file_that_is_not_such_an_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} {message}"):
        read_idx(path, (28, 28))


@pytest.mark.parametrize("damage", ["cut", "altered", "not gzip"])
def test_a_damaged_gzip_is_refused(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress(idx_bytes(IMAGES)))
    if damage == "cut":
        packed = packed[:-20]
    elif damage == "altered":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed = bytearray(idx_bytes(IMAGES))
    path = tmp_path / "images.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"images\.gz cannot be read"):
        read_idx(path, (28, 28))


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_cifar_records_are_read(tmp_path: Path, label_bytes: int) -> None:
    """The fine label is the one before the pixels."""
    path = tmp_path / "batch.bin"
    content = cifar_records(12, classes=100, label_bytes=label_bytes)
    path.write_bytes(content)
    images, labels = read_cifar(path, label_bytes, 100)
    assert cifar_count(path, label_bytes) == 12
    assert images.shape == (12, 3, 32, 32) and images.dtype == np.uint8
    assert list(labels) == list(range(12))
    assert images[0, 0, 0, 0] == content[label_bytes] and images[-1, -1, -1, -1] == content[-1]


@pytest.mark.parametrize("size", [0, 3072, 3073 * 2 + 1])
def test_a_cifar_file_has_whole_records(tmp_path: Path, size: int) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(
        DataError, match=f"{path} is {size} bytes long; CIFAR records make a multiple of 3073"
    ):
        cifar_count(path, 1)


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(cifar_records(3, classes=3) + struct.pack("B", 10) + bytes(3072))
    with pytest.raises(DataError, match="record 3 has the label 10; the last class is 9"):
        read_cifar(path, 1, 10)

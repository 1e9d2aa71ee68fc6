"""Readers of binary image formats with checks: IDX (MNIST) and CIFAR records. No torch, no pickle."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from esper.errors import DataError

Bytes = NDArray[np.uint8]
CIFAR_PIXELS = 3 * 32 * 32


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; delete it and fetch it again") from error


def _header(stream: IO[bytes], path: Path, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    dims = 1 + len(sample_shape)
    head = stream.read(4 + 4 * dims)
    magic = 0x0800 | dims  # 08: unsigned bytes; the last byte counts the dimensions
    if len(head) < 4 + 4 * dims or struct.unpack(">I", head[:4])[0] != magic:
        raise DataError(
            f"{path} begins with {head[:4].hex() or 'nothing'}; "
            f"an IDX file of {dims} dimensions of bytes begins with {magic:08x}"
        )
    shape: tuple[int, ...] = struct.unpack(f">{dims}I", head[4:])
    if shape[1:] != sample_shape or shape[0] == 0:
        expected = " x ".join(["N", *map(str, sample_shape)])
        raise DataError(f"{path} has the shape {' x '.join(map(str, shape))}; expected {expected} with N > 0")
    return shape


def idx_shape(path: Path, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (count, *sample_shape) from an IDX file's header; raises `DataError` for any other header."""
    with _opened(path) as stream:
        return _header(stream, path, sample_shape)


def read_idx(path: Path, sample_shape: tuple[int, ...]) -> Bytes:
    """Return an IDX file's bytes as (count, *sample_shape); `path` may end in `.gz`. Raises `DataError`."""
    with _opened(path) as stream:
        shape = _header(stream, path, sample_shape)
        body = stream.read()
    if len(body) != math.prod(shape):
        raise DataError(f"{path} holds {len(body)} bytes after its header, which promises {math.prod(shape)}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def cifar_count(path: Path, label_bytes: int) -> int:
    """Return the number of records in a CIFAR file; raises `DataError` unless it is whole and above 0."""
    size, record = path.stat().st_size, label_bytes + CIFAR_PIXELS
    if size == 0 or size % record:
        raise DataError(f"{path} is {size} bytes long; CIFAR records make a multiple of {record}, above 0")
    return size // record


def read_cifar(path: Path, label_bytes: int, num_classes: int) -> tuple[Bytes, Bytes]:
    """Return images (count, 3, 32, 32) and labels (count,) of a CIFAR file; the last label byte counts."""
    count = cifar_count(path, label_bytes)
    with _opened(path) as stream:
        records = np.frombuffer(stream.read(), np.uint8).reshape(count, -1)
    labels = records[:, label_bytes - 1]
    check_labels(path, labels, num_classes)
    return records[:, label_bytes:].reshape(count, 3, 32, 32), labels


def check_labels(path: Path, labels: Bytes, num_classes: int) -> None:
    """Raise `DataError` naming the first label that is not a class."""
    wrong = np.flatnonzero(labels >= num_classes)
    if len(wrong):
        at = int(wrong[0])
        raise DataError(
            f"{path}: record {at} has the label {labels[at]}; the last class is {num_classes - 1}"
        )

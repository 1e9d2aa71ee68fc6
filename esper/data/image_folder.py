"""Images in class folders: listing, checks and decoding with Pillow. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from esper.data.catalogue import DataInfo, image_info
from esper.data.formats import Bytes
from esper.data.image_modes import check_mode, to_levels
from esper.data.image_tree import SUFFIXES, image_files, subfolders
from esper.data.params import FolderParams, size_of
from esper.errors import DataError

IN_MEMORY_BYTES = 256 << 20
# Checks of files that are decoded on demand: up to so many bytes all are decoded before training, otherwise
# the headers of up to so many files are read, at 0.1 ms each.
CHECKED_BYTES = 256 << 20
CHECKED_HEADERS = 200_000
VALIDATION_NAMES = ("val", "validation", "valid")


@dataclass(frozen=True, slots=True)
class FileList:
    """Image files and their classes (int64, the same length)."""

    paths: list[Path]
    labels: NDArray[np.int64]


def folder_info(root: Path, params: FolderParams) -> DataInfo:
    """Return what a model must fit, from the names of folders; raises `DataError` without classes."""
    parts = _parts(root)
    classes = _classes(parts["train"])
    size, official_test = size_of(params.image_size), "test" in parts
    return image_info("image_folder", len(classes), params.channels, size, official_test=official_test)


def list_folder(root: Path) -> dict[str, FileList]:
    """Return files by part: `train` always, `validation` and `test` where they have separate folders.

    The classes are the folders of `train`, sorted; a class that only another part has is a `DataError`.
    """
    parts = _parts(root)
    classes = _classes(parts["train"])
    return {part: _list(folder, classes) for part, folder in parts.items()}


def decode(path: Path, params: FolderParams) -> Bytes:
    """Return one image as uint8 (channels, height, width): scaled to cover the size, then centre-cropped.

    `esper.data.image_modes` describes the levels of each kind of image. Raises `DataError` with the path.
    """
    height, width = size_of(params.image_size)
    with _opened(path) as image:
        plain = to_levels(image, params.channels)
        fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(fitted).reshape(height, width, -1)
    levels = pixels if pixels.dtype == np.uint8 else np.rint(pixels).clip(0, 255).astype(np.uint8)
    shaped = np.broadcast_to(levels, (height, width, params.channels))
    return np.ascontiguousarray(shaped.transpose(2, 0, 1))


def check_readable(files: FileList, params: FolderParams, threads: int) -> None:
    """Raise `DataError` for a file that cannot be read, as far as this can be checked in seconds.

    Up to `CHECKED_BYTES` of files, all are decoded. Of more, only the headers are checked, which finds a file
    that is no image, too large or of an unknown range, but not a truncated one.
    """
    small = sum(path.stat().st_size for path in files.paths if path.exists()) <= CHECKED_BYTES
    with ThreadPoolExecutor(max(1, threads)) as pool:
        if small:
            list(pool.map(lambda path: decode(path, params).shape, files.paths))
        else:
            list(pool.map(_check_header, files.paths[:CHECKED_HEADERS]))


def decode_all(files: FileList, params: FolderParams, threads: int) -> Bytes:
    """Return all images as uint8 (count, channels, height, width)."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return np.stack(list(pool.map(lambda path: decode(path, params), files.paths)))


class FolderDataset:
    """The files as a map-style dataset: (image (channels, height, width) uint8, class)."""

    def __init__(self, files: FileList, params: FolderParams) -> None:
        self._files = files
        self._params = params

    def __len__(self) -> int:
        return len(self._files.paths)

    def __getitem__(self, index: int) -> tuple[Bytes, int]:
        return decode(self._files.paths[index], self._params), int(self._files.labels[index])


def fits_in_memory(count: int, params: FolderParams) -> bool:
    """Whether `count` decoded images are kept on the device."""
    if params.in_memory is not None:
        return params.in_memory
    height, width = size_of(params.image_size)
    return count * params.channels * height * width <= IN_MEMORY_BYTES


def _parts(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise DataError(
            f"image_folder looks for images in {root.resolve()}, which is not a folder; dataset.data_root "
            "names one that holds a folder of images a class, or train/, val/ and test/ with those inside"
        )
    if not (root / "train").is_dir():
        return {"train": root}
    parts = {"train": root / "train"}
    validation = [name for name in VALIDATION_NAMES if (root / name).is_dir()]
    if validation:
        parts["validation"] = root / validation[0]
    if (root / "test").is_dir():
        parts["test"] = root / "test"
    return parts


def _classes(folder: Path) -> list[str]:
    names = subfolders(folder)
    if len(names) < 2:
        found = ", ".join(names) or "none"
        raise DataError(f"{folder} needs a folder of images for each of two classes or more; found: {found}")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Context: the open image; any error inside becomes a `DataError` with the path."""
    if not path.is_file():
        reason = "no regular file" if path.exists() else "a link to a file that is missing"
        raise DataError(f"{path} cannot be read as an image: it is {reason}")
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:
        # the readers of some formats raise more than Pillow documents: SyntaxError, struct.error, EOFError
        raise DataError(f"{path} cannot be read as an image: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is no known image format" if path.stat().st_size else "the file is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; scale it down"
    return " ".join(str(error).split()) or type(error).__name__


def _check_header(path: Path) -> None:
    with _opened(path) as image:
        check_mode(image)


def _list(folder: Path, classes: list[str]) -> FileList:
    foreign = sorted(set(subfolders(folder)) - set(classes))
    if foreign:
        raise DataError(
            f"{folder} has classes that train lacks: {', '.join(foreign)}; known: {', '.join(classes)}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = image_files(folder / name) if (folder / name).is_dir() else []
        paths += found
        labels += [label] * len(found)
    known = f"known suffixes: {', '.join(sorted(SUFFIXES))}"
    if not paths:
        raise DataError(f"{folder} holds no image; {known}")
    empty = [name for label, name in enumerate(classes) if label not in set(labels)]
    if empty and folder.name not in ("test", *VALIDATION_NAMES):
        raise DataError(f"{folder} has classes without an image: {', '.join(empty)}; {known}")
    return FileList(paths, np.array(labels, np.int64))

"""Images in class folders: listed, checked and decoded with Pillow. No torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from esper.data.catalogue import DataInfo, image_info
from esper.data.formats import Bytes
from esper.data.options import FolderParams, size_of
from esper.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IN_MEMORY_BYTES = 256 << 20
VALIDATION_NAMES = ("val", "validation", "valid")


@dataclass(frozen=True, slots=True)
class FileList:
    """Image files and their classes (int64, the same length)."""

    paths: list[Path]
    labels: NDArray[np.int64]


def folder_info(root: Path, params: FolderParams) -> DataInfo:
    """What a model has to fit, from the names of folders; raises `DataError` where there are no classes."""
    parts = _parts(root)
    classes = _classes(parts["train"])
    size, official_test = size_of(params.image_size), "test" in parts
    return image_info("image_folder", len(classes), params.channels, size, official_test=official_test)


def list_folder(root: Path) -> dict[str, FileList]:
    """Files by part: `train` always, `validation` and `test` where they have folders of their own.

    The classes are the folders of `train` by name; a class that only another part has is a `DataError`.
    """
    parts = _parts(root)
    classes = _classes(parts["train"])
    return {part: _list(folder, classes) for part, folder in parts.items()}


def decode(path: Path, params: FolderParams) -> Bytes:
    """One image as (channels, height, width): scaled to cover the size, then cropped at its centre."""
    height, width = size_of(params.image_size)
    try:
        with Image.open(path) as image:
            plain = image.convert("L" if params.channels == 1 else "RGB")
            fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    pixels = np.asarray(fitted, np.uint8).reshape(height, width, params.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def decode_all(files: FileList, params: FolderParams, threads: int) -> Bytes:
    """All images as (count, channels, height, width)."""
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
    names = _subfolders(folder)
    if len(names) < 2:
        found = ", ".join(names) or "none"
        raise DataError(f"{folder} needs a folder of images for each of two classes or more; found: {found}")
    return names


def _subfolders(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def _list(folder: Path, classes: list[str]) -> FileList:
    foreign = sorted(set(_subfolders(folder)) - set(classes))
    if foreign:
        raise DataError(
            f"{folder} has classes that train lacks: {', '.join(foreign)}; known: {', '.join(classes)}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    known = f"known suffixes: {', '.join(sorted(SUFFIXES))}"
    if not paths:
        raise DataError(f"{folder} holds no image; {known}")
    empty = [name for label, name in enumerate(classes) if label not in set(labels)]
    if empty and folder.name not in ("test", *VALIDATION_NAMES):
        raise DataError(f"{folder} has classes without an image: {', '.join(empty)}; {known}")
    return FileList(paths, np.array(labels, np.int64))

"""Typed `dataset_params` and `augmentation_params` of each dataset, checked by name and value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from esper.errors import DataError

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Params:
    """Base of the option groups; `where` is the key under which a user writes them."""

    where: ClassVar[str] = "dataset.dataset_params"

    def _number(self, name: str, low: float, high: float | None = None) -> None:
        value = getattr(self, name)
        whole = isinstance(type(self).__dict__[name], int)
        kind = "a whole number" if whole else "a number"
        bounds = f"of at least {low}" if high is None else f"between {low} and {high}"
        typed = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not typed or not low <= value <= (float("inf") if high is None else high):
            raise DataError(f"{self.where}.{name} is {value!r}; it must be {kind} {bounds}")

    def _size(self, name: str) -> None:
        value = getattr(self, name)
        pair = value if isinstance(value, list | tuple) else (value, value)
        whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair)
        if len(pair) != 2 or not whole:
            raise DataError(f"{self.where}.{name} is {value!r}; it must be pixels a side, or [height, width]")


ParamsT = TypeVar("ParamsT", bound=Params)


@dataclass(frozen=True)
class Augmentation(Params):
    """Augmentation of training images, drawn separately for each image.

    Args:
        crop_padding: pixels of zeros around the image before a random crop of the original size.
        horizontal_flip: probability in [0, 1].
        cutout: side in pixels of a square that is set to zero.
    """

    where: ClassVar[str] = "dataset.augmentation_params"
    crop_padding: int = 0
    horizontal_flip: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        self._number("crop_padding", 0)
        self._number("horizontal_flip", 0, 1)
        self._number("cutout", 0)

    @property
    def active(self) -> bool:
        return bool(self.crop_padding or self.horizontal_flip or self.cutout)


@dataclass(frozen=True)
class NoParams(Params):
    """Parameters of a dataset without options."""


@dataclass(frozen=True)
class FileParams(Params):
    """Options of the downloadable sets: `mirror` is an address that holds the official files."""

    mirror: str | None = None

    def __post_init__(self) -> None:
        if self.mirror is not None and urlsplit(str(self.mirror)).scheme not in ("http", "https"):
            raise DataError(f"{self.where}.mirror is {self.mirror!r}; it must be an http or https address")


@dataclass(frozen=True)
class SyntheticParams(Params):
    """Options of `synthetic`.

    Args:
        num_classes: number of classes.
        channels: channels of an image.
        image_size: side in pixels, or (height, width).
        samples: number of images.
        separation: root mean square of a class's pattern, in units of the noise's standard deviation.
        data_seed: seed of the images, independent of the seed of the run.
    """

    num_classes: int = 10
    channels: int = 3
    image_size: Size = 16
    samples: int = 2000
    separation: float = 0.5
    data_seed: int = 0

    def __post_init__(self) -> None:
        self._number("num_classes", 2)
        self._number("channels", 1)
        self._size("image_size")
        self._number("samples", self.num_classes)
        self._number("separation", 0)
        self._number("data_seed", 0)


@dataclass(frozen=True)
class FolderParams(Params):
    """Options of `image_folder`; `esper.data.image_modes` describes the conversion to levels of 0 to 255.

    Args:
        image_size: side in pixels of the model's input, or (height, width).
        channels: 1 (grey) or 3 (RGB).
        in_memory: whether decoded images are kept on the device; None: if they take at most 256 MiB.
            Otherwise they are decoded in each epoch.
    """

    image_size: Size = 64
    channels: int = 3
    in_memory: bool | None = None

    def __post_init__(self) -> None:
        self._size("image_size")
        if self.channels not in (1, 3):
            raise DataError(f"{self.where}.channels is {self.channels!r}; it must be 1 (grey) or 3 (colour)")
        if self.in_memory not in (None, True, False):
            raise DataError(f"{self.where}.in_memory is {self.in_memory!r}; it must be true, false or null")


def size_of(value: Size) -> tuple[int, int]:
    """Return (height, width) of an option that is one side or a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name, and the list of all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} Known: {', '.join(names) or 'none'}"


def read_params(defaults: ParamsT, given: Mapping[str, Any]) -> ParamsT:
    """Return `defaults` with the user's values; raises `DataError` for an unknown key or invalid value."""
    known = [item.name for item in fields(defaults)]
    for key in given:
        if key not in known:
            raise DataError(f"{defaults.where}.{key} is unknown{nearest(str(key), known)}")
    return replace(defaults, **given)

"""The free dictionaries of the dataset group, typed: what each dataset takes, checked by name and value."""

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
    """What is done to the images of a training batch, drawn anew for each image.

    `crop_padding`: pixels of zeros around the image before a random crop of the old size, that is the
    largest shift; `horizontal_flip`: probability; `cutout`: side in pixels of a square that is blanked.
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
    """Options of a dataset that has none."""


@dataclass(frozen=True)
class FileParams(Params):
    """Options of the downloadable sets: `mirror` is an address that holds the official files."""

    mirror: str | None = None

    def __post_init__(self) -> None:
        if self.mirror is not None and urlsplit(str(self.mirror)).scheme not in ("http", "https"):
            raise DataError(f"{self.where}.mirror is {self.mirror!r}; it must be an http or https address")


@dataclass(frozen=True)
class SyntheticParams(Params):
    """Options of `synthetic`; `separation` is the root mean square of a class's pattern in units of the
    noise's standard deviation, `data_seed` fixes the images whatever the seed of the run.
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
    """Options of `image_folder`: size and channels (1 or 3) of what the model gets; `in_memory` null:
    on the device where the decoded images take at most 256 MiB, else read again each epoch. How each kind of
    image becomes levels of 0 to 255 is said in `esper.data.image_modes`.
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
    """(height, width) of an option that is one side or a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most like `name`, and the list of all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} Known: {', '.join(names) or 'none'}"


def read_params(defaults: ParamsT, given: Mapping[str, Any]) -> ParamsT:
    """`defaults` with what the user gave; raises `DataError` for an unknown key or an impossible value."""
    known = [item.name for item in fields(defaults)]
    for key in given:
        if key not in known:
            raise DataError(f"{defaults.where}.{key} is unknown{nearest(str(key), known)}")
    return replace(defaults, **given)

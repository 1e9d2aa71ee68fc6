"""Conversion of an image in any Pillow mode to grey or RGB levels of 0 to 255. No torch.

| content of the file | conversion to levels |
|---|---|
| 1 to 8 bits a channel, grey or colour | Pillow's conversion to L or RGB |
| a palette; alpha | the palette's colours; alpha is dropped, not composited (as torchvision's loader does) |
| 9 to 16 bits, grey | value / (2**bits - 1), 65535 for 16 bits; a TIFF whose zero is white is inverted |
| 16 bits, colour | the high byte, which is all that Pillow reads |
| 32-bit float | 0 to 1; other values are rejected |
| signed or 32-bit integers | rejected: the value of white is not defined |

The first frame of an animation and the first page of a document are taken. An EXIF orientation is applied.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Levels = NDArray[np.float32]

_WHAT_WORKS = "save it with 8 or 16 bits a pixel, or as 32-bit float from 0 to 1"
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_WHITE_IS_ZERO, _SIGNED = 0, 2
_SIXTEEN_BIT_FORMATS = frozenset({"PNG", "PPM"})  # whose mode I holds 0 to 65535
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_levels(image: Image.Image, channels: int) -> Image.Image:
    """The image upright, in levels of 0 to 255.

    Args:
        image: as opened; it is read here.
        channels: 1 for grey, 3 for RGB.

    Returns:
        An image of mode L or RGB, or of mode F (grey levels with fractions) where the file has more than 8
        bits, which the caller repeats for three channels.

    Raises:
        ValueError: for pixels whose range is not known; the text says what would work.
    """
    image.load()
    upright = _UPRIGHT.get(_orientation(image))
    deep = _deep_levels(image)
    plain = _eight_bit(image, channels) if deep is None else Image.fromarray(deep)
    return plain if upright is None else plain.transpose(upright)


def check_mode(image: Image.Image) -> None:
    """Raise `ValueError` for pixels whose range is not known; only the header is read."""
    mode, tags = image.mode, _tags(image)
    if _SIGNED in _values(tags.get(_SAMPLE_FORMAT)):
        _reject("signed whole numbers have no agreed white")
    if mode == "I" and image.format not in _SIXTEEN_BIT_FORMATS:
        _reject("32-bit whole numbers have no agreed white")


def _deep_levels(image: Image.Image) -> Levels | None:
    """Levels of an image with more than 8 bits a pixel; None for any other."""
    check_mode(image)
    if image.mode == "F":
        shares = _float_shares(np.asarray(image, np.float32))
    elif image.mode == "I" or image.mode.startswith("I;16"):
        shares = np.asarray(image).astype(np.float32) / _white(image)
    else:
        return None
    inverted = _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return np.float32(255) * (1 - shares if inverted else shares)


def _float_shares(values: Levels) -> Levels:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # false for NaN, too
        _reject(f"32-bit float pixels are taken as 0 to 1, and these run from {low:g} to {high:g}")
    return values


def _white(image: Image.Image) -> np.float32:
    bits = int(_values(_tags(image).get(_BITS_PER_SAMPLE, 16))[0])
    return np.float32((1 << bits) - 1)


def _eight_bit(image: Image.Image, channels: int) -> Image.Image:
    image.info.pop("transparency", None)  # alpha is dropped; Pillow warns about some kinds of it
    if image.mode == "La":
        image = image.convert("LA")  # the only conversion that undoes premultiplied alpha
    elif image.mode in ("LAB", "RGBa"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none or the EXIF block cannot be read."""
    with suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _values(tag: Any) -> tuple[Any, ...]:
    return tag if isinstance(tag, tuple) else (tag,)


def _reject(reason: str) -> NoReturn:
    raise ValueError(f"{reason}; {_WHAT_WORKS}")

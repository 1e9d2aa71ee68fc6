"""Every mode of Pillow, from files where a format can hold it, against references in NumPy."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from esper.data.image_folder import decode
from esper.data.image_modes import to_levels
from esper.data.params import FolderParams
from esper.errors import DataError

HEIGHT, WIDTH = 5, 7
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
ALPHA = RNG.integers(1, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
SHARES = RNG.random((HEIGHT, WIDTH), dtype=np.float32)

Array = NDArray[np.generic]


def read(path: Path, channels: int = 3) -> NDArray[np.int64]:
    """(height, width) of a grey image or (height, width, 3), at its own size."""
    with Image.open(path) as image:
        size = image.size[::-1]
    pixels = decode(path, FolderParams(image_size=size, channels=channels))
    return (pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)).astype(np.int64)


def levels_of(image: Image.Image, channels: int = 3) -> NDArray[np.int64]:
    return np.rint(np.asarray(to_levels(image, channels))).astype(np.int64)


def luma(colour: Array) -> Array:
    """ITU-R 601-2, as Pillow and torchvision turn RGB to grey."""
    return colour @ np.array([0.299, 0.587, 0.114])


def close(found: Array, expected: Array, within: float = 0.51) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(float) - expected.astype(float)).max() <= within


def repeated(grey: Array) -> Array:
    return np.repeat(grey[..., None], 3, axis=2)


EIGHT_BIT_FILES = {
    "png": ("L", GREY, repeated(GREY)),
    "bmp": ("RGB", COLOUR, COLOUR),
    "ppm": ("RGB", COLOUR, COLOUR),
    "tif": ("RGB", COLOUR, COLOUR),
    "webp": ("RGBA", np.concatenate([COLOUR, ALPHA], 2), COLOUR),
    "gif": ("L", GREY, repeated(GREY)),
}


@pytest.mark.parametrize("suffix", EIGHT_BIT_FILES)
def test_eight_bits_come_as_they_are(tmp_path: Path, suffix: str) -> None:
    mode, pixels, expected = EIGHT_BIT_FILES[suffix]
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels, mode).save(
        path, **({"lossless": True, "exact": True} if suffix == "webp" else {})
    )
    close(read(path), expected, 0)
    close(read(path, 1), luma(expected), 1)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_divided_by_65535(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(DEEP).save(path)
    expected = DEEP.astype(float) / 65535 * 255
    close(read(path, channels), expected if channels == 1 else repeated(expected))


def test_sixteen_bit_levels_are_kept_until_the_image_has_its_size(tmp_path: Path) -> None:
    """100 and 157 of 65535 are level 0 and 1; the mean of many is 0.5 and above, not 0."""
    path = tmp_path / "a.png"
    Image.fromarray(np.tile(np.array([[100, 200]], np.uint16), (64, 32))).save(path)
    assert decode(path, FolderParams(image_size=1, channels=1)).item() == round(150 / 257)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_each_order_of_bytes_of_sixteen_bits(mode: str) -> None:
    order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (WIDTH, HEIGHT), DEEP.astype(order).tobytes())
    close(levels_of(image), DEEP / 257)


def test_a_big_endian_tiff_and_one_whose_zero_is_white(tmp_path: Path) -> None:
    for order, photometric in (("<", 1), (">", 1), ("<", 0)):
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(DEEP.astype(f"{order}u2").tobytes(), 16, order=order, photometric=photometric))
        shares = DEEP / 65535
        close(read(path, 1), 255 * (shares if photometric else 1 - shares))


def test_twelve_bits_are_divided_by_4095(tmp_path: Path) -> None:
    values = DEEP[:, :6] >> 4
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(packed.tobytes(), 12, width=6))
    close(read(path, 1), values / 4095 * 255)


@pytest.mark.parametrize("top", [1, 15, 255, 1023, 4095, 65535])
def test_a_pgm_has_its_own_white(tmp_path: Path, top: int) -> None:
    values = DEEP.astype(np.int64) % (top + 1)
    path = tmp_path / "a.pgm"
    body = values.astype(">u2" if top > 255 else "u1").tobytes()
    path.write_bytes(b"P5 %d %d %d\n" % (WIDTH, HEIGHT, top) + body)
    close(read(path, 1), values / top * 255)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_grey_png_of_each_depth(tmp_path: Path, bits: int) -> None:
    values = DEEP.astype(np.int64) % (1 << bits)
    path = tmp_path / "a.png"
    path.write_bytes(png(values, bits, colour_type=0))
    close(read(path, 1), values / ((1 << bits) - 1) * 255)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_a_png_of_sixteen_bits_a_channel_gives_the_high_byte(
    tmp_path: Path, colour_type: int, channels: int
) -> None:
    values = RNG.integers(0, 65536, (HEIGHT, WIDTH, channels), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png(values, 16, colour_type))
    expected = values[..., :3] if channels > 2 else repeated(values[..., 0])
    close(read(path), expected / 257, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_taken_as_zero_to_one(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(SHARES).save(path)
    close(read(path, channels), 255 * (SHARES if channels == 1 else repeated(SHARES)))


FLOATS = "32-bit float pixels are taken as 0 to 1, and these run from"
REFUSED = {
    "bytes as floats": (SHARES * 255, FLOATS),
    "negative floats": (SHARES - 1, f"{FLOATS} -"),
    "floats that are no numbers": (np.full((HEIGHT, WIDTH), np.nan, np.float32), f"{FLOATS} nan to nan"),
    "32 bits": (DEEP.astype(np.uint32), "32-bit whole numbers have no agreed white"),
    "32 bits with a sign": (DEEP.astype(np.int32), "signed whole numbers have no agreed white"),
    "16 bits with a sign": (-(DEEP >> 1).astype(np.int16), "signed whole numbers have no agreed white"),
    "8 bits with a sign": (GREY.astype(np.int8), "signed whole numbers have no agreed white"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_pixels_of_no_known_range_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    pixels, reason = REFUSED[kind]
    path = tmp_path / "a.tif"
    number = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    path.write_bytes(tiff(pixels.tobytes(), 8 * pixels.itemsize, sample_format=number))
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} cannot be read as an image: {reason}")
    assert str(caught.value).endswith("save it with 8 or 16 bits a pixel, or as 32-bit float from 0 to 1")


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(GREY > 127).save(path)
    close(read(path), repeated(255 * (GREY > 127)), 0)


def test_a_palette_gives_its_colours_with_or_without_transparency(tmp_path: Path) -> None:
    indices = GREY % 4
    palette = np.array([[200, 10, 30], [0, 255, 0], [1, 2, 3], [90, 80, 70]], np.uint8)
    for number, transparency in enumerate((None, 1, b"\x00\x80\xff\x10")):
        image = Image.fromarray(indices, "P")
        image.putpalette(palette.tobytes())
        path = tmp_path / f"{number}.png"
        image.save(path, **({} if transparency is None else {"transparency": transparency}))
        close(read(path), palette[indices], 0)
        close(read(path, 1), luma(palette[indices]), 1)
    with_alpha = Image.merge("LA", [Image.fromarray(indices), Image.fromarray(ALPHA[..., 0])])
    with_alpha.putpalette(palette.tobytes())
    assert with_alpha.mode == "PA"
    close(levels_of(with_alpha), palette[indices], 0)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_dropped(tmp_path: Path, suffix: str) -> None:
    """As torchvision's default loader does: a pixel has its colour however transparent it is."""
    clear = np.zeros_like(ALPHA)
    for mode, colour in (("LA", GREY[..., None]), ("RGBA", COLOUR)):
        path = tmp_path / f"{mode}.{suffix}"
        Image.fromarray(np.concatenate([colour, clear], 2), mode).save(path)
        close(read(path), np.broadcast_to(colour, COLOUR.shape), 0)


@pytest.mark.parametrize(("mode", "colour"), [("La", GREY[..., None]), ("RGBa", COLOUR)])
def test_alpha_is_taken_out_where_colours_are_multiplied_by_it(mode: str, colour: Array) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 128, np.uint8)
    multiplied = np.rint(colour * (128 / 255)).astype(np.uint8)
    image = Image.frombytes(mode, (WIDTH, HEIGHT), np.concatenate([multiplied, alpha], 2).tobytes())
    close(levels_of(image), np.broadcast_to(colour, COLOUR.shape), 2)
    close(levels_of(image, 1), luma(np.broadcast_to(colour, COLOUR.shape)), 3)


def test_rgbx_and_hsv() -> None:
    padded = Image.frombytes("RGBX", (WIDTH, HEIGHT), np.concatenate([COLOUR, ALPHA], 2).tobytes())
    close(levels_of(padded), COLOUR, 0)
    hues = np.array([[[0, 255, 200], [85, 255, 100], [170, 255, 50], [0, 0, 77]]], np.uint8)
    expected = np.array([[[200, 0, 0], [0, 100, 0], [0, 0, 50], [77, 77, 77]]])
    hsv = Image.frombytes("HSV", (4, 1), hues.tobytes())
    close(levels_of(hsv), expected, 1)
    close(levels_of(hsv, 1), luma(expected), 1)


@pytest.mark.parametrize("make", [lambda image, path: image, lambda image, path: saved(image, path)])
def test_cmyk(tmp_path: Path, make: Callable[[Image.Image, Path], Image.Image]) -> None:
    inks = np.concatenate([COLOUR, ALPHA], 2)
    image = make(Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes()), tmp_path / "a.tif")
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    close(levels_of(image), expected, 1)


def test_ycbcr() -> None:
    image = Image.frombytes("YCbCr", (WIDTH, HEIGHT), COLOUR.tobytes())
    y, cb, cr = (COLOUR[..., each].astype(float) for each in range(3))
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    close(levels_of(image), np.stack([red, green, blue], 2).clip(0, 255), 1.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_lab(tmp_path: Path, channels: int) -> None:
    lab = np.array([(100, 0, 0), (0, 0, 0), (54, 0, 0), (60, 30, 20), (70, -30, 25), (50, 10, -40)])
    stored = np.rint(lab * [2.55, 1, 1]).astype(np.int64).astype(np.uint8)  # a and b are signed
    path = tmp_path / "a.tif"
    Image.frombytes("LAB", (6, 1), stored.tobytes()).save(path)
    expected = srgb_of(lab)[None]
    close(read(path, channels), expected if channels == 3 else luma(expected), 3)


def srgb_of(lab: Array) -> Array:
    """CIELAB under D50 to sRGB, by the definitions of both."""
    y = (lab[:, 0] + 16) / 116
    roots = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], 1)
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * [0.9642, 1, 0.8251]
    to_linear = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = (xyz @ np.array(to_linear).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255  # bright at the top left
    upright[:8, 16:] = 120
    # what a camera held so has stored, by the definition of each value in the EXIF standard
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(path, exif=exif)
    pixels = decode(path, FolderParams(image_size=(16, 32), channels=1))[0]
    close(pixels, upright, 12)


def test_an_orientation_is_applied_to_sixteen_bits_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(DEEP.T[::-1])).save(tmp_path / "a.png", exif=exif)
    close(decode(tmp_path / "a.png", FolderParams(image_size=(HEIGHT, WIDTH), channels=1))[0], DEEP / 257)


def test_a_broken_exif_block_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffnonsense")
    close(read(path, 1), GREY, 0)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    first, second = Image.new("L", (WIDTH, HEIGHT), 200), Image.new("L", (WIDTH, HEIGHT), 10)
    lossless = {"lossless": True} if suffix == "webp" else {}
    first.save(path, save_all=True, append_images=[second], **lossless)
    with Image.open(path) as image:
        assert image.n_frames == 2
    close(read(path, 1), np.full((HEIGHT, WIDTH), 200), 1)


def saved(image: Image.Image, path: Path) -> Image.Image:
    image.save(path)
    return Image.open(io.BytesIO(path.read_bytes()))


def png(values: Array, bits: int, colour_type: int) -> bytes:
    """A PNG written by hand: Pillow cannot write most depths."""
    rows = values.reshape(HEIGHT, -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        steps = np.arange(bits - 1, -1, -1)
        packed = np.packbits((rows[..., None] >> steps & 1).reshape(HEIGHT, -1).astype(np.uint8), axis=1)
    lines = np.hstack([np.zeros((HEIGHT, 1), np.uint8), packed.reshape(HEIGHT, -1)]).tobytes()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def tiff(
    pixels: bytes,
    bits: int,
    *,
    order: str = "<",
    photometric: int = 1,
    sample_format: int = 1,
    width: int = WIDTH,
) -> bytes:
    """A grey TIFF of one strip, written by hand: Pillow cannot write most kinds."""
    entries = {
        256: width,
        257: HEIGHT,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: HEIGHT,
        279: len(pixels),
        339: sample_format,
    }
    mark = b"II" if order == "<" else b"MM"
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in entries.items():
        directory += struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(f"{order}I", value)
    return mark + struct.pack(f"{order}HI", 42, 8 + len(pixels)) + pixels + directory + bytes(4)

"""Any picture file to upright 8-bit RGB of one size: the single place where pixels are interpreted."""

import contextlib
import functools
import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF")


def decode_picture(data: bytes | Path, size: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Encoded bytes, or a file, of one of `FORMATS` -> uint8 RGB [h, w, 3]; `size` x `size` where given.

    Raises as `open_rgb` does.
    """
    rgb = open_rgb(data)
    return np.asarray(rgb if size is None else fit_square(rgb, size))


def decode_pictures(
    encoded: Sequence[bytes],
    shape: tuple[int, int, int],
    size: int | None = None,
    out: UInt8[np.ndarray, "n h w 3"] | None = None,
) -> UInt8[np.ndarray, "n h w 3"]:
    """`decode_picture` of each, in order; into `out` where given.

    Raises as `decode_picture` does, and ValueError where a picture is not of `shape`.
    """
    pictures = np.empty((len(encoded), *shape), np.uint8) if out is None else out
    for place, data in enumerate(encoded):
        picture = decode_picture(data, size)
        if picture.shape != shape:
            raise ValueError(
                f"a picture of {picture.shape} in a data set of {shape}; give image_size to bring all to one size"
            )
        pictures[place] = picture
    return pictures


def open_rgb(data: bytes | Path) -> Image.Image:
    """Encoded bytes, or a file, of one of `FORMATS` -> upright 8-bit RGB of the size that it has.

    Of an animation the first frame is taken. Raises ValueError (or an OSError of Pillow) where the bytes are
    no picture, are cut off, claim more than 64 million pixels, or have a mode without an agreed 8-bit
    meaning.
    """
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    with Image.open(source, formats=_readable_formats()) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}")
        picture.load()
        return to_rgb(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Upright (EXIF orientation applied) 8-bit RGB. RGB pixels stay as they are.

    Grey is repeated, transparency is laid over white, palettes are looked up, 16-bit grey is scaled by
    255/65535, CMYK, YCbCr, LAB and HSV are converted by Pillow (no colour profiles). Raises ValueError for
    32-bit integer pictures with values outside 0..65535 and for floating-point ones: their range is not
    known.
    """
    # broken metadata is no reason to lose a sound picture
    with contextlib.suppress(ValueError, SyntaxError, KeyError, TypeError, OSError, struct.error):
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"32-bit values {values.min()}..{values.max()}; at most 16 bits (0..65535) are read"
            )
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError(
            "floating-point pixels, whose range is not known; save the picture with 8 or 16 bits"
        )
    if picture.has_transparency_data:  # alpha, or one colour or palette entry named as transparent
        return _over_white(picture)
    return picture.convert("RGB")


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """Shorter side resized to `size` (bicubic with antialiasing), then the centre `size` x `size` cut out.

    A picture that already has the size keeps its pixels.
    """
    if picture.size == (size, size):
        return picture
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    # the box is resized at once: the margins are never computed, however long the picture
    left, top = (width - size) // 2 / width * picture.width, (height - size) // 2 / height * picture.height
    box = (left, top, left + size / width * picture.width, top + size / height * picture.height)
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _over_white(picture: Image.Image) -> Image.Image:
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    # a short list also spares Pillow from trying some forty readers, a third of the time at 32 x 32
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)

"""Uploaded pictures: told by their content, and measured before anything is decoded."""

import contextlib
import io
import threading
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from kdhash.serve.refusals import Refused

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Pillow takes up to 20 bytes a pixel, of which a file of a few hundred kilobytes may have 64 million: such ones come one by one.
LARGE_PIXELS = 16_000_000
_one_large_picture = threading.Lock()
NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"


def read_picture(data: bytes, model: Any, max_pixels: int) -> UInt8[np.ndarray, "size size 3"]:
    """An uploaded picture as `model` wants it.

    Raises Refused: 415 for anything but a picture of `FORMATS`, whatever its name; 413 for more than
    `max_pixels` pixels, told by the header; 422 for a broken one.
    """
    large = check_picture(data, max_pixels) > LARGE_PIXELS
    try:
        with _one_large_picture if large else contextlib.nullcontext():
            return model.fit(data)
    except ValueError as error:
        raise Refused(422, f"picture: {error}") from error
    except Exception as error:  # Pillow's readers raise whatever comes to them on a broken file
        raise Refused(422, "picture: it is broken or cut off; save it anew and send it again") from error


def check_picture(data: bytes, max_pixels: int) -> int:
    """The number of pixels, from the header alone. Raises Refused as `read_picture` does."""
    if not data:
        raise Refused(422, "picture: it is empty; send the bytes of a picture file")
    readable = [name for name in FORMATS if name in _known_formats()]
    try:
        with Image.open(io.BytesIO(data), formats=readable) as picture:
            width, height = picture.size
    except UnidentifiedImageError as error:
        raise Refused(415, f"picture: its content is none of {NAMES}; convert it to one of them") from error
    except Image.DecompressionBombError as error:
        raise Refused(413, f"picture: more than {max_pixels:,} pixels; make it smaller") from error
    except Exception as error:  # as above
        raise Refused(422, "picture: its header is broken; save it anew and send it again") from error
    if width * height > max_pixels:
        raise Refused(413, f"picture: {width} x {height} is more than {max_pixels:,} pixels; make it smaller")
    return width * height


def _known_formats() -> dict[str, Any]:
    Image.init()
    return Image.OPEN

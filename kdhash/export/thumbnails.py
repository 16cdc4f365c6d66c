"""Small JPEG pictures to show results with."""

import io

from PIL import Image

SIDE = 128  # pixels of the longer side
QUALITY = 85


def thumbnail(picture: Image.Image, side: int = SIDE) -> bytes:
    """A JPEG whose longer side has at most `side` pixels; smaller pictures keep their size."""
    scale = side / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in picture.size)
        # reducing_gap: large pictures are first halved cheaply, to no less than twice the size
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()

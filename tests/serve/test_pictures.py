import contextlib
import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from kdhash.serve import pictures
from kdhash.serve.pictures import FORMATS, read_picture
from kdhash.serve.refusals import Limits, Refused
from tests.serve.stand_ins import SIZE, ProjectionModel, encoded

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def read(data, max_pixels=None):
    return read_picture(data, ProjectionModel(), max_pixels or Limits().pixels)


def png_claiming(width, height):
    """A PNG whose header promises a size, and whose data is short."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "MPO"])
def test_every_format_is_read_by_its_content(kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    assert read(encoded(PIXELS, kind)).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"", 422, "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "JPEG, PNG"),
        (b"%PDF-1.7 ...", 415, "JPEG, PNG"),
        (b"\x00" * 5000, 415, "JPEG, PNG"),
        (encoded(PIXELS, "PPM"), 415, "JPEG, PNG"),
        (encoded(PIXELS, "ICO"), 415, "JPEG, PNG"),
        (encoded(PIXELS)[:200], 422, "picture: "),
        (encoded(PIXELS, "JPEG")[:300], 422, "picture: "),
        (encoded(PIXELS, "WEBP")[:100], 422, "picture: "),
        (encoded(PIXELS)[:40], 415, "JPEG, PNG"),
        (png_claiming(8001, 8000), 413, "8001 x 8000"),
        (png_claiming(60_000, 60_000), 413, "64,000,000 pixels"),
        (png_claiming(2**31 - 1, 2**31 - 1), 413, "64,000,000 pixels"),
    ],
)
def test_what_is_no_sound_picture_is_refused(data, status, says):
    with pytest.raises(Refused) as refused:
        read(data)
    assert refused.value.status == status, refused.value.message
    assert says in refused.value.message
    assert "0x" not in refused.value.message  # Pillow names its objects by their addresses


def test_a_picture_without_an_8_bit_meaning_is_refused():
    file = io.BytesIO()
    Image.fromarray(np.ones((20, 20), np.float32)).save(file, "TIFF")
    with pytest.raises(Refused, match="floating-point"):
        read(file.getvalue())


def test_pixels_are_counted_before_anything_is_decoded(monkeypatch):
    data = encoded(PIXELS)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(Refused, match="30 x 20 is more than 599 pixels"):
        read(data, max_pixels=599)


@pytest.mark.parametrize(("large", "together"), [(10**9, 4), (599, 1)])
def test_large_pictures_are_decoded_one_by_one(monkeypatch, large, together):
    monkeypatch.setattr(pictures, "LARGE_PIXELS", large)
    inside, most, lock = [], [], threading.Lock()

    class Slow(ProjectionModel):
        def fit(self, data):
            with lock:
                inside.append(data)
                most.append(len(inside))
            time.sleep(0.1)
            with lock:
                inside.pop()
            return super().fit(data)

    data = encoded(PIXELS)
    with ThreadPoolExecutor(4) as readers:
        for done in [readers.submit(read_picture, data, Slow(), 10**6) for _ in range(4)]:
            assert done.result().shape == (SIZE, SIZE, 3)
    assert max(most) == together


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_damaged_pictures_are_read_or_refused_and_nothing_else(kind):
    sound = encoded(PIXELS, kind)
    rng = np.random.default_rng(1)
    for _ in range(60):
        data = np.frombuffer(sound, np.uint8).copy()
        data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        with contextlib.suppress(Refused):
            assert read(data.tobytes()).shape == (SIZE, SIZE, 3)

"""A model that needs no network and no compiling: codes are signs of random projections of pixels, or of a text's words."""

import hashlib
import io
import threading
import time

import numpy as np
import pyarrow as pa
from PIL import Image

from kdhash.data.pictures import decode_picture

BITS = 64
SIZE = 16


class ProjectionModel:
    """What `kdhash.export.load_model` gives, in small. `batches` records the sizes of the batches; `seconds` slows each."""

    folder = "projection"
    hash = "projection-model"
    searches = ("projection-model",)
    bits = BITS
    size = SIZE

    def __init__(self, kind="image-text", seconds=0.0):
        self.kind = kind
        self.seconds = seconds
        self.batches = []
        self.threads = set()
        self._planes = np.random.default_rng(0).standard_normal((SIZE * SIZE * 3, BITS))

    def fit(self, data):
        return decode_picture(data, self.size)

    def encode_pictures(self, pixels):
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (SIZE, SIZE, 3)
        self._note(len(pixels))
        values = pixels.reshape(len(pixels), -1).astype(np.float64)
        return np.packbits((values - values.mean(axis=1, keepdims=True)) @ self._planes > 0, axis=1)

    def encode_texts(self, texts):
        if self.kind != "image-text":
            raise ValueError("no text tower")
        self._note(len(texts))
        return np.stack([text_code(text) for text in texts])

    def _note(self, count):
        self.batches.append(count)
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)


def text_code(text):
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=BITS // 8).digest(), np.uint8)


def digits(count):
    """(pictures uint8 [count, 32, 32], labels) of handwritten digits, eightfold grey scaled to bytes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = (data.images[:count] * 15.9).astype(np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2), data.target[:count]


def encoded(pixels, kind="PNG", **options):
    """The bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def write_digits(folder, count=120, *, thumbs=True, first=0, model=None):
    """A folder of codes of handwritten digits, as `kdhash encode` writes it."""
    from kdhash.retrieval.items import write_items

    model = model or ProjectionModel()
    pictures, labels = (array[first:] for array in digits(first + count))
    files = [encoded(picture) for picture in pictures]
    table = pa.table(
        {
            "id": [f"digits/{first + row}.png" for row in range(count)],
            "label": [str(label) for label in labels],
            "tags": [
                ["even" if label % 2 == 0 else "odd", "round"] if label else ["even"] for label in labels
            ],
            "width": pa.array(np.arange(count) % 7 + 32, pa.int32()),
            "darkness": [
                float("nan") if row == 0 else float(picture.mean()) for row, picture in enumerate(pictures)
            ],
            "added": pa.array([0] * count, pa.timestamp("s")),
        }
    )
    codes = model.encode_pictures(np.stack([model.fit(file) for file in files]))
    jpegs = [encoded(picture, "JPEG") for picture in pictures] if thumbs else None
    return write_items(folder, codes, table, thumbs=jpegs, model=model.hash)

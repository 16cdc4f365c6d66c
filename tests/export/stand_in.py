"""A model that needs no training: the signs of random projections of pixels, or of letters; and pictures for it."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image


class StandIn:
    """As `kdhash.export.Model`, as far as encoding goes. batches: how many pictures or texts each call was given."""

    def __init__(self, seed=0, bits=32, size=8, kind="image-text"):
        rng = np.random.default_rng(seed)
        self.folder, self.bits, self.size, self.kind = Path("models/stand-in"), bits, size, kind
        self.hash = hashlib.sha256(f"stand-in {seed} {bits}".encode()).hexdigest()
        self.searches = (self.hash,)
        self.preprocessing = f"size {size}"
        self.pixels = rng.standard_normal((size * size * 3, bits))
        self.letters = rng.standard_normal((256, bits))
        self.batches = []

    def encode_pictures(self, pictures):
        assert pictures.dtype == np.uint8
        assert pictures.shape[1:] == (self.size, self.size, 3)
        self.batches.append(len(pictures))
        values = (pictures.reshape(len(pictures), -1) / 255.0 - 0.5) @ self.pixels
        return np.packbits(values >= 0, axis=1)

    def encode_texts(self, texts):
        if self.kind != "image-text":
            raise ValueError(f"{self.folder} hashes pictures only")
        self.batches.append(len(texts))
        counts = [np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256) for text in texts]
        return np.packbits(np.array(counts) @ self.letters >= 0, axis=1)

    def fit(self, picture):
        from kdhash.data.pictures import decode_picture

        return decode_picture(Path(picture), self.size)


def write_picture(path, seed, size=(20, 30)):
    """A smooth picture, like no other: a 3 x 3 of colours, enlarged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(path)


def write_pictures(folder, count, first=0):
    """Pictures in two folders, of several formats and sizes; the names, in the order in which they are encoded."""
    names = [
        f"{'cats' if number % 2 else 'dogs'}/{number:03}.{('png', 'jpg', 'webp')[number % 3]}"
        for number in range(first, first + count)
    ]
    for number, name in enumerate(names, first):
        write_picture(folder / name, number, (20 + number % 5 * 60, 30))
    return sorted(names)


def contents(folder):
    """{name: bytes} of all files of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

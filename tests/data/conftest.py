"""Small data sets on disk, and a machine without a network."""

import socket

import numpy as np
import pytest

from kdhash.data.write_tfds import encode_png, write_dataset


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Any attempt to reach a network fails at once, and fails the test with it."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"tried to reach the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def random_pictures(count, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def write_random_dataset(
    data_dir, name="tiny", version="1.0.0", *, sizes=None, seed=0, size=8, classes=3, ids=None
):
    """A TFDS folder of random pictures, label = number modulo classes; returns {id: picture} in no order."""
    sizes = sizes or {"train": 30, "test": 12}
    pictures = random_pictures(sum(sizes.values()), size, seed)
    by_id = {}

    def examples(split, start):
        for number in range(sizes[split]):
            identity = ids(split, number) if ids else f"{split}_{number:03d}"
            by_id[identity] = pictures[start + number]
            yield (
                number,
                {
                    "id": identity,
                    "image": encode_png(pictures[start + number]),
                    "label": number % classes,
                },
            )

    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    write_dataset(
        data_dir,
        name,
        version,
        image_shape=(size, size, 3),
        label_names={"label": [f"class {label}" for label in range(classes)]},
        splits={split: examples(split, int(starts[split])) for split in sizes},
        about={},
    )
    return by_id


@pytest.fixture(scope="module")
def write_random():
    return write_random_dataset


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(data_dir, {id: picture}) of a data set 'tiny': 30 train, 12 test pictures, 8 x 8, 3 classes."""
    data_dir = tmp_path_factory.mktemp("data")
    return data_dir, write_random_dataset(data_dir)

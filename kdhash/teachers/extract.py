"""Every picture through every frozen teacher, once, on all devices."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdhash.data import ImageDataset
from kdhash.data.augment import color_jitter, random_flip, resized_crop
from kdhash.teachers import cache
from kdhash.teachers.registry import Teacher

# What 'augment...' views are made with; part of the cache's identity.
AUGMENT: dict[str, Any] = {
    "scale": [0.6, 1.0],
    "jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3},
}
Features = dict[str, dict[str, np.ndarray]]  # view -> {'features': [rows, width], 'logits': [rows, classes]}


def extract_features(
    teacher: Teacher,
    dataset: ImageDataset,
    views: tuple[str, ...],
    cache_dir: str | Path,
    *,
    mesh: Mesh,
    batch_size: int,
    shard_rows: int = 5000,
    progress: Callable[[str, int, int, float], None] | None = None,
) -> tuple[Features, float]:
    """The cached features of all rows of `dataset` under each view: see `view_pictures` for their names.

    Returns the features and the seconds spent computing (0.0 where everything was cached). `progress` is called with
    the view, the rows done, the rows in all, and the seconds so far.
    """
    identity = {"teacher": teacher.identity, "dataset": dataset.fingerprint, "rows": len(dataset.labels)}
    spread = NamedSharding(mesh, PartitionSpec("data"))
    variables = jax.device_put(teacher.variables, NamedSharding(mesh, PartitionSpec()))
    features: Features = {}
    spent = 0.0
    for view in views:
        wanted = identity | {"view": view, "augment": AUGMENT if view.startswith("augment") else None}
        folder = Path(cache_dir) / f"{teacher.name}-{view}-{cache.cache_key(**wanted)}"
        if not cache.is_complete(folder, wanted):
            start = time.perf_counter()

            @jax.jit
            def forward(variables, images, rows, view=view):
                return teacher.apply(variables, view_pictures(view, rows, images))

            def compute(first: int, last: int, forward=forward) -> dict[str, np.ndarray]:
                return _in_batches(
                    lambda images, rows: forward(variables, *jax.device_put((images, rows), spread)),
                    dataset,
                    np.arange(first, last),
                    batch_size,
                )

            total = len(dataset.labels)
            for done in cache.fill(folder, wanted, total, min(shard_rows, total), compute):
                if progress:
                    progress(view, done, total, time.perf_counter() - start)
            spent += time.perf_counter() - start
        features[view] = cache.read(folder)
    return features, spent


def view_pictures(view: str, rows: jax.Array, images: jax.Array) -> jax.Array:
    """Float pictures in [0, 1] of one named view, [batch, h, w, 3], from uint8 pictures.

    'original'; 'flip' (mirrored); 'augment1', 'augment2', ... a resized crop (scale .6 to 1), flip and colour jitter,
    drawn from the row number. Networks that know their training pictures by heart (99.9 % right) err on these as they
    err on new ones: the CIFAR ResNets are right on 88 to 90 %. Raises ValueError for another name.
    """
    pictures = images.astype(jnp.float32) / 255
    if view == "original":
        return pictures
    if view == "flip":
        return pictures[:, :, ::-1]
    number = view.removeprefix("augment")
    if number == view or not number.isdigit():
        raise ValueError(
            f"no view is called {view!r}; there are 'original', 'flip', 'augment1', 'augment2', ..."
        )
    base = jax.random.key(int(number))

    def augment(row, picture):
        crop, flip, color = jax.random.split(jax.random.fold_in(base, row), 3)
        picture = resized_crop(crop, picture, scale=tuple(AUGMENT["scale"]))
        picture, _ = random_flip(flip, picture)
        return color_jitter(color, picture, **AUGMENT["jitter"])

    return jax.vmap(augment)(rows, pictures)


def _in_batches(
    forward: Callable[[np.ndarray, np.ndarray], dict[str, Any]],
    dataset: ImageDataset,
    rows: np.ndarray,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Full batches all through: the last one is filled up by repeating its final row, whose copies are cut off."""
    parts = []
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        padded = np.pad(chunk, (0, batch_size - len(chunk)), mode="edge")
        outputs = forward(dataset.images[padded], padded.astype(np.int32))
        parts.append({key: np.asarray(value)[: len(chunk)] for key, value in outputs.items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

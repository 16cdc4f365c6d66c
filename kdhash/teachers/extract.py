"""Every picture through every frozen teacher, once: each process its shards, on its own devices, decoding ahead of them."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from kdhash import stopping
from kdhash.data.pictures import MAX_PIXELS
from kdhash.data.pipeline import device_prefetch
from kdhash.data.stream import LoosePictures
from kdhash.processes import appear, by_first
from kdhash.teachers import cache
from kdhash.teachers.preprocessing import Fitted, Preprocessing, steps
from kdhash.teachers.registry import Teacher
from kdhash.teachers.views import recipe_of, view_pictures

Features = dict[str, dict[str, np.ndarray]]  # view -> {'features': [rows, width], 'logits': [rows, classes]}


class Pictures(Protocol):
    """An ImageDataset, a PairDataset with images, a PictureStream: `images[rows]` are the pictures."""

    @property
    def images(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...


Progress = Callable[[str, int, int, float], None]


def extract_features(
    teacher: Teacher,
    dataset: Pictures,
    views: tuple[str, ...],
    cache_dir: str | Path,
    **options: Any,
) -> tuple[Features, float]:
    """The cached features of all rows of `dataset` under each view, and the seconds spent; options are `fill_cache`'s."""
    folders, spent = fill_cache(teacher, dataset, views, cache_dir, **options)
    for folder in folders.values():
        appear(folder / cache.MANIFEST)
    return {view: cache.read(folder) for view, folder in folders.items()}, spent


def fill_cache(
    teacher: Teacher,
    pictures: Pictures,
    views: tuple[str, ...],
    cache_dir: str | Path,
    *,
    mesh: Mesh,
    batch_size: int,
    shard_rows: int = 5000,
    progress: Progress | None = None,
    process_index: int | None = None,
    process_count: int | None = None,
) -> tuple[dict[str, Path], float]:
    """The finished cache folder of each view (names: see `view_pictures`), computed where it is not there yet.

    Process i of n (JAX's own numbers by default) computes shards i, i + n, ... on its devices of `mesh`, in batches of
    `batch_size`, and all return when the caches are complete. Memory does not grow with the number of pictures. Pictures
    of different sizes are brought to the teacher's input size on the host, by Pillow, before their views are made; those
    of one size on the device, after. Returns the folders and the seconds spent computing (0.0 where everything was
    cached). `progress` is called with the view, the rows done, this process's rows in all, and the seconds so far.
    """
    process_index = jax.process_index() if process_index is None else process_index
    process_count = jax.process_count() if process_count is None else process_count
    devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    if batch_size % len(devices):
        raise ValueError(f"batch_size is {batch_size}, which {len(devices)} devices do not divide")
    local = Mesh(np.asarray(devices), ("data",))
    rows = len(pictures)
    identity = {"teacher": teacher.identity, "dataset": pictures.fingerprint, "rows": rows}
    variables = jax.device_put(teacher.variables, NamedSharding(local, PartitionSpec()))
    loose = isinstance(pictures.images, LoosePictures)  # of many sizes
    fetch = _fetcher(pictures, teacher.preprocessing)
    folders: dict[str, Path] = {}
    spent = 0.0
    for view in views:
        wanted = identity | {"view": view, "augment": recipe_of(view)}
        folder = Path(cache_dir) / f"{teacher.name}-{view}-{cache.cache_key(**wanted)}"
        folders[view] = folder
        if by_first(partial(cache.is_complete, folder, wanted)):
            continue
        start = time.perf_counter()
        plan = cache.plan(
            folder,
            wanted,
            rows,
            min(shard_rows, rows),
            process_index=process_index,
            process_count=process_count,
        )
        done = plan.total - sum(last - first for first, last in plan.missing)

        @jax.jit
        def forward(variables, images, numbers, view=view):
            seen = view_pictures(view, numbers, images)
            return teacher.apply(variables, Fitted(seen) if loose else seen)

        def report(new: int, done=done, view=view, plan=plan, start=start) -> None:
            if progress:
                progress(view, done + new, plan.total, time.perf_counter() - start)

        if done or not plan.missing:
            report(0)
        batches = _computed(partial(forward, variables), fetch, plan.missing, batch_size, local)
        for span, arrays in _by_span(batches, report):
            cache.write_shard(plan, span, arrays)
            stopping.check()
        cache.finish(plan, process_index=process_index, wait=_wait if jax.process_count() > 1 else _nothing)
        spent += time.perf_counter() - start
    return folders, spent


def fit_picture(picture: np.ndarray, wanted: Preprocessing) -> np.ndarray:
    """A uint8 picture [h, w, 3] resized by Pillow and cut to what the network sees, [size, size, 3]: `preprocess`, less
    channel order, mean and std. Raises ValueError for a strip so long that it would take more than 64 million pixels."""
    (height, width), (top, left) = steps(picture.shape[0], picture.shape[1], wanted)
    if height * width > MAX_PIXELS:  # a long strip
        raise ValueError(f"{width} x {height} pixels once resized, more than {MAX_PIXELS:,}")
    # cut while resizing would round differently
    filtering = Image.Resampling[wanted.interpolation.upper()]
    picture = np.asarray(Image.fromarray(picture).resize((width, height), filtering))
    return picture[top : top + wanted.size, left : left + wanted.size]


Batch = tuple[cache.Span, int, dict[str, Any]]  # the shard it is part of, rows (the rest is filling), outputs
Fetch = Callable[[np.ndarray], tuple[np.ndarray, dict[str, np.ndarray]]]


def _fetcher(pictures: Pictures, wanted: Preprocessing) -> Fetch:
    """rows -> uint8 pictures of one size, and what else a shard holds of them."""
    images = pictures.images
    if not isinstance(images, LoosePictures):
        return lambda rows: (images[rows], {})

    def fitted(rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        decoded, reasons = images.fitted(rows, partial(fit_picture, wanted=wanted), wanted.size)
        return decoded, {cache.SKIPPED: np.asarray(reasons)}

    return fitted


def _computed(
    forward: Callable[..., dict[str, Any]],
    fetch: Fetch,
    spans: list[cache.Span],
    batch_size: int,
    mesh: Mesh,
) -> Iterator[Batch]:
    """Outputs batch by batch, fetched by a thread two batches ahead, computed one ahead of what is read back.

    Full batches all through: the last one of a span is filled up by repeating its final row.
    """
    spread = NamedSharding(mesh, PartitionSpec("data"))
    steps = [
        (span, first, min(first + batch_size, span[1]))
        for span in spans
        for first in range(span[0], span[1], batch_size)
    ]
    if not steps:
        return

    def load(step):
        span, first, last = step
        rows = np.arange(first, last, dtype=np.int32)
        images, others = fetch(rows)
        inputs = [
            np.pad(part, [(0, batch_size - len(rows))] + [(0, 0)] * (part.ndim - 1), mode="edge")
            for part in (images, rows)
        ]
        return span, len(rows), jax.device_put(inputs, spread), others

    source = grain.MapDataset.source(steps).map(load)
    waiting: Batch | None = None
    for span, count, inputs, others in device_prefetch(source, 0, lambda loaded: loaded):
        outputs = forward(*inputs) | others  # runs while the outputs before it are read back
        if waiting is not None:
            yield waiting
        waiting = span, count, outputs
    if waiting is not None:
        yield waiting


def _by_span(
    batches: Iterable[Batch], report: Callable[[int], None]
) -> Iterator[tuple[cache.Span, dict[str, np.ndarray]]]:
    """Puts the batches of a shard together on the host; `report` hears the rows done so far."""
    parts: list[dict[str, np.ndarray]] = []
    done = held = 0
    for span, count, outputs in batches:
        parts.append({key: np.asarray(value)[:count] for key, value in outputs.items()})
        held += count
        if held == span[1] - span[0]:
            yield span, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            parts, held = [], 0
        done += count
        report(done)


def _wait(name: str) -> None:
    multihost_utils.sync_global_devices(name)


def _nothing(name: str) -> None:
    pass

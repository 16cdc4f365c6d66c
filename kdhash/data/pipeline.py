"""Batches whose content is a function of the step, and their way to the device in the background."""

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import grain
import numpy as np
from jaxtyping import Int64

Placed = TypeVar("Placed")


def batches(
    fetch: Callable[[Int64[np.ndarray, " rows"]], Mapping[str, np.ndarray]],
    indices: Int64[np.ndarray, " n"],
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    with_epoch: bool = False,
) -> grain.MapDataset:
    """An endless `grain.MapDataset`: element [step] is `fetch` of this process's part of the global batch.

    `batch_size` is global; process p gets the p-th of `process_count` equal consecutive parts of it, so the
    global batch of a step is the same for any process count. `indices` are shuffled anew in every epoch, by `seed` and
    the epoch (len(indices) // batch_size steps; the last partial batch is dropped). Random access: a resumed run starts
    at its step, and no iterator state exists to be saved. `with_epoch` adds 'epoch', how many of them are over, an int32
    for each row. Raises ValueError where the sizes do not fit.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size ({batch_size}) must be divisible by the process count ({process_count})"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index} of {process_count} processes")
    if batch_size > len(indices):
        raise ValueError(
            f"batch_size ({batch_size}) is larger than the {len(indices)} pictures to choose from"
        )
    local = batch_size // process_count
    part = slice(process_index * local, (process_index + 1) * local)
    per_epoch = len(indices) // batch_size

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        # at once, not item by item as grain's shuffle: that took longer than a small network's step
        return np.random.default_rng((seed, epoch)).permutation(indices)

    def load(step: int, _: int) -> Mapping[str, np.ndarray]:
        epoch, place = divmod(step, per_epoch)
        batch = fetch(order(epoch)[place * batch_size :][part])
        return {**batch, "epoch": np.full(local, epoch, np.int32)} if with_epoch else batch

    return grain.MapDataset.range(per_epoch).repeat(None).map_with_index(load)


def device_prefetch(
    dataset: grain.MapDataset, start_step: int, put: Callable[[Any], Placed], depth: int = 2
) -> Generator[Placed]:
    """Yields `put(dataset[step])` from `start_step` on, worked out up to `depth` steps ahead.

    One background thread, started by the first `next`, fetches and places, so order is kept. An exception in
    `fetch` or `put` is raised in the consumer, at the step it belongs to. `close()` (or the end of the
    generator's life) stops the thread and waits for it.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; at least one step must be held")
    ready: queue.Queue[tuple[bool, Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def work() -> None:
        failure: BaseException | None = None
        try:
            for step in range(start_step, len(dataset)):
                if stopped.is_set():
                    return
                ready.put((True, put(dataset[step]), None))
        except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer
            failure = error
        ready.put((False, None, failure))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            more, placed, failure = ready.get()
            if failure is not None:
                raise failure
            if not more:
                return
            yield placed
    finally:
        stopped.set()
        while thread.is_alive():
            # a worker that waits for room must be let go
            with contextlib.suppress(queue.Empty):
                ready.get_nowait()
            thread.join(0.01)

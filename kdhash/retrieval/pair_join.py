"""All pairs of codes within a Hamming radius, a batch at a time: no matrix of all pairs.

By comparing all with all, or by the pigeonhole principle: cut the bits into radius + 1 chunks, and two codes within the
radius agree on at least one chunk, so that only codes of one bucket (the same chunk) need comparing.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt16, UInt64

from kdhash.retrieval.blocks import ALL
from kdhash.retrieval.hamming import kernels, numpy_distances, threads

METHODS = ("auto", "all", "buckets")
# Nanoseconds on one thread, measured on a server processor of 2023; only their ratios matter.
_COMPARE = 0.1  # two words, in a large run
_BUCKET = 250.0  # to bring an item into its bucket and compare it with the first few others
_STRIP = 4096  # rows of a large run that a thread takes at once
_BATCH = 2**18  # pairs
_SAMPLE = 2**14


class PairBatch(NamedTuple):
    """Pairs of items, in no particular order; of two items the first is the earlier one."""

    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    distances: UInt16[np.ndarray, " pairs"]


def join_pairs(
    words: UInt64[np.ndarray, "words n"], bits: int, radius: int, method: str = "auto"
) -> Iterator[PairBatch]:
    """Every pair of columns of words within radius bits, once; bits of the last word beyond `bits` are zero.

    method: 'all', 'buckets', or 'auto': which promises to be faster; they give the same pairs. Holds 5 MiB a thread for the
    pairs, and for buckets 8 (words + 2) bytes an item. Raises ValueError for another method and for 'buckets' where there are not
    enough bits.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    if method == "buckets" and radius >= bits:
        raise ValueError(f"method buckets: {bits} bits cannot be cut into radius + 1 = {radius + 1} chunks")
    items = words.shape[1]
    if items < 2:
        return
    if method == "auto":
        chosen = radius < bits and kernels() is not None and _buckets_pay(words, bits, radius)
        method = "buckets" if chosen else "all"
    if method == "all":
        no_masks = np.empty((0, len(words)), np.uint64)
        yield from _join_runs(words, np.array([[0, items]]), no_masks, radius)
        return
    spans = _chunks(bits, radius)
    masks = np.stack([_mask(span, len(words)) for span in spans])
    for number, span in enumerate(spans):
        keys = _key(words, span)
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        runs = np.stack([edges, np.append(edges[1:], items)], axis=1)
        runs = runs[runs[:, 1] - runs[:, 0] > 1]
        inside = np.take(words, order, axis=1)
        for first, second, distances in _join_runs(inside, runs, masks[:number], radius):
            a, b = order[first], order[second]
            yield PairBatch(np.minimum(a, b), np.maximum(a, b), distances)


def _chunks(bits: int, radius: int) -> list[tuple[int, int]]:
    """radius + 1 ranges of bits that do not overlap, of at most 64 bits: more would not make buckets smaller."""
    edges = [bits * i // (radius + 1) for i in range(radius + 2)]
    return [(a, min(b, a + 64)) for a, b in zip(edges, edges[1:], strict=False)]


def _mask(span: tuple[int, int], words: int) -> np.ndarray:
    """The bits of a range as uint64 [words]; bit 64 w + i is bit i of word w."""
    whole = ((1 << (span[1] - span[0])) - 1) << span[0]
    return np.array([(whole >> (64 * w)) & (2**64 - 1) for w in range(words)], np.uint64)


def _key(words: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    """The bits of a range of each item, as a number: uint64 [n]."""
    first, shift = divmod(span[0], 64)
    key = words[first] >> np.uint64(shift)
    if shift + span[1] - span[0] > 64:
        key |= words[first + 1] << np.uint64(64 - shift)
    return key & np.uint64((1 << (span[1] - span[0])) - 1)


def _buckets_pay(words: np.ndarray, bits: int, radius: int) -> bool:
    """Whether buckets promise to be faster, from the share of pairs in one bucket that a sample of items shows."""
    items = words.shape[1]
    sample = words[:, np.linspace(0, items - 1, min(items, _SAMPLE)).astype(np.int64)]
    size = sample.shape[1]
    share = 0.0
    for span in _chunks(bits, radius):
        counts = np.unique(_key(sample, span), return_counts=True)[1].astype(float)
        share += float((counts * (counts - 1)).sum()) / max(size * (size - 1), 1)
    pairs = items * (items - 1) / 2 * len(words) * _COMPARE
    return share * pairs + (radius + 1) * items * _BUCKET < pairs


def _join_runs(words: np.ndarray, runs: np.ndarray, earlier: np.ndarray, radius: int) -> Iterator[PairBatch]:
    """Pairs within each run of columns ([runs, 2]: from, to) that agree on none of the masks `earlier`."""
    strips = _strips(runs)
    if kernels() is None:
        yield from _numpy_join(words, strips, earlier, radius)
        return
    from kdhash.retrieval.nearest_kernels import join_strips

    words = words.view()
    words.flags.writeable = False

    def step(task: tuple[np.ndarray, np.ndarray]) -> tuple[PairBatch, bool]:
        strips, cursor = task
        batch = PairBatch(np.empty(_BATCH, np.int64), np.empty(_BATCH, np.int64), np.empty(_BATCH, np.uint16))
        size = join_strips(words, strips, earlier, ALL, np.uint64(radius + 1), cursor, *batch)
        return PairBatch(*(column[:size] for column in batch)), cursor[0] < len(strips)

    waiting = deque((part, np.array([0, *[part[0, 0]] * 3])) for part in _tasks(strips))
    running: deque = deque()
    with ThreadPoolExecutor(threads()) as pool:
        while waiting or running:
            while waiting and len(running) < threads():
                task = waiting.popleft()
                running.append((task, pool.submit(step, task)))
            task, future = running.popleft()
            batch, more = future.result()
            if more:
                waiting.appendleft(task)
            if len(batch.first):
                yield batch


def _strips(runs: np.ndarray) -> np.ndarray:
    """Runs [r, 2] cut into strips [s, 3] of at most _STRIP rows: from, to, and where the run ends."""
    count = -(-(runs[:, 1] - runs[:, 0]) // _STRIP)
    first = np.repeat(runs[:, 0], count) + _STRIP * (
        np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    )
    end = np.repeat(runs[:, 1], count)
    return np.stack([first, np.minimum(first + _STRIP, end), end], axis=1)


def _tasks(strips: np.ndarray) -> list[np.ndarray]:
    """The strips in order, in a few lists a thread of about the same work."""
    rows = strips[:, 1] - strips[:, 0]
    work = np.cumsum(rows * (strips[:, 2] - strips[:, 0]).astype(float))
    shares = 8 * threads()
    places = np.searchsorted(work, np.max(work, initial=0) / shares * np.arange(1, shares))
    return [part for part in np.split(strips, places) if len(part)]


def _numpy_join(
    words: np.ndarray, strips: np.ndarray, earlier: np.ndarray, radius: int
) -> Iterator[PairBatch]:
    rows, columns = 64, _BATCH // 64
    for start, stop, end in strips.tolist():
        for row in range(start, stop, rows):
            queries = words[:, row : min(row + rows, stop)].T
            for column in range(row, end, columns):
                others = words[:, column : min(column + columns, end)]
                distances = numpy_distances(queries, others)
                i, j = np.nonzero(distances <= radius)
                later = j + column > i + row
                i, j = i[later], j[later]
                differs = queries[i] ^ others[:, j].T
                new = np.ones(len(i), bool)
                for mask in earlier:
                    new &= (differs & mask).any(axis=1)
                i, j = i[new], j[new]
                if len(i):
                    yield PairBatch(i + row, j + column, distances[i, j])

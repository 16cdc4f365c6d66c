"""The approximate engine of an index folder: `ivf.faiss` beside its segments, of one generation of the index."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from kdhash.retrieval.engines import ivf
from kdhash.retrieval.found import Found

if TYPE_CHECKING:
    from kdhash.retrieval.filters import Filter
    from kdhash.retrieval.index import Index

FILE = "ivf.faiss"
BLOCK = 2**20  # codes added at a time


class StaleIvf(ValueError):
    """The approximate index is of another generation than the index: something has been added or deleted since."""


class IvfReport(NamedTuple):
    """What `build_ivf` made."""

    lists: int
    probes: int
    """lists that a search looks at"""
    recall: float
    """the share of the k nearest that it finds, with stored codes as queries"""
    k: int
    seconds: float


def build_ivf(index: Index, *, recall: float = 0.99, lists: int | None = None) -> IvfReport:
    """Writes the approximate index of all live items, which looks at as many lists as `recall` (0 to 1) asks for.

    Needs 16 bytes of memory an item and bits / 8 more. lists: default about the square root of the number of items. Raises
    ValueError for an index without items and a recall out of range.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall: expected a share from 0 to 1, got {recall}")
    if not len(index):
        raise ValueError(f"{index.path} has no items to make an approximate index of")
    started = time.perf_counter()
    lists = min(lists or ivf.lists_for(len(index)), len(index))
    made = ivf.train(index.bits, sample_codes(index, lists * ivf.TRAINING), lists)
    for segment in index.segments:
        for first in range(0, segment.count, BLOCK):
            rows = np.arange(first, min(first + BLOCK, segment.count))
            if segment.deleted is not None:
                rows = rows[~segment.deleted[rows]]
            made.add_with_ids(np.ascontiguousarray(segment.codes[rows]), segment.numbers_at(rows))
    k = min(ivf.RANK, len(index))
    queries, exact = _stored_queries(index, ivf.SAMPLE, k)
    reached = ivf.probe_until(made, queries, exact, recall)
    ivf.write_ivf(
        index.path / FILE,
        made,
        {"generation": index.generation, "bits": index.bits, "recall": reached, "k": k},
    )
    return IvfReport(made.nlist, made.nprobe, reached, k, time.perf_counter() - started)


def search_ivf(
    index: Index,
    codes: UInt8[np.ndarray, "queries bytes"],
    k: int | None,
    radius: int | None,
    where: Filter | None,
) -> Found:
    """`Index.search` with engine='ivf'. With a filter the exact engine answers: it scans what passes.

    Raises FileNotFoundError where there is no approximate index, StaleIvf where it is of another generation, DamagedFile.
    """
    if where is not None:
        return index.search(codes, k=k, radius=radius, where=where)
    made = _opened(index)
    return ivf.search(
        made, np.ascontiguousarray(codes), k, index.bits if radius is None else min(radius, index.bits)
    )


def ivf_recall(index: Index, sample: int = ivf.SAMPLE, k: int = ivf.RANK) -> float | None:
    """Recall@k of the approximate index against the exact one, with stored codes as queries; None where there is none of this
    generation."""
    try:
        made = _opened(index)
    except (FileNotFoundError, StaleIvf):
        return None
    queries, exact = _stored_queries(index, sample, min(k, len(index)))
    found = ivf.search(made, queries, exact.shape[1], index.bits).distances
    return float(ivf.recall_of(found, exact, True).mean())


def sample_codes(index: Index, wanted: int, seed: int = 0) -> UInt8[np.ndarray, "sample bytes"]:
    """Codes of at most so many live items, of all segments alike."""
    rng = np.random.default_rng(seed)
    share = min(1.0, wanted / max(1, len(index)))
    parts = [np.empty((0, index.bits // 8), np.uint8)]
    for segment in index.segments:
        live = np.arange(segment.count) if segment.deleted is None else np.flatnonzero(~segment.deleted)
        parts.append(segment.codes[np.sort(rng.choice(live, int(np.ceil(len(live) * share)), replace=False))])
    return np.concatenate(parts)


def _stored_queries(index: Index, sample: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Stored codes, and the distances of their k nearest items after themselves."""
    queries = np.random.default_rng(2).permutation(sample_codes(index, sample, seed=1))[:sample]
    return queries, index.search(queries, k=k + 1).distances


def _opened(index: Index) -> Any:
    path = index.path / FILE
    try:
        facts = ivf.ivf_facts(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{index.path} has no approximate index; kdhash index ivf {index.path} makes one, or search with the engine exact"
        ) from None
    if (facts["generation"], facts["bits"], facts["count"]) != (index.generation, index.bits, len(index)):
        raise StaleIvf(
            f"{path} is of generation {facts['generation']}, the index of {index.generation}: items have come or gone since; "
            f"kdhash index ivf {index.path} makes it anew"
        )
    return _read(path, facts["sha256"])


@functools.lru_cache(maxsize=2)  # a search does not read the file again
def _read(path: Path, sha256: str) -> Any:
    return ivf.read_ivf(path)[0]

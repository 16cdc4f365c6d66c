"""faiss's IndexBinaryIVF: codes in lists around centres, of which a search looks at the nearest few; and what that misses.

How many lists have to be looked at depends on the codes: on clustered ones a few find everything, on evenly spread ones most
have to be. So recall is measured, and lists are added until it is what was asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8, UInt16

from kdhash.retrieval.engines.request import found_of_all, make_found
from kdhash.retrieval.found import Found
from kdhash.retrieval.mapped import DamagedFile, sync

SAMPLE = 1024  # stored codes with which recall is measured
RANK = 100  # at which it is
TRAINING = 100  # codes a list, from which centres are made
_END = b"kdhash-ivf-1"


def lists_for(items: int) -> int:
    """About the square root of the number of items; 1 for a few thousand, which a scan goes through in no time."""
    return 1 if items < 4096 else min(2**16, 1 << round(np.log2(items) / 2))


def train(bits: int, codes: UInt8[np.ndarray, "n bytes"], lists: int) -> Any:
    """An empty IndexBinaryIVF, with centres made from these codes."""
    faiss: Any = importlib.import_module("faiss")
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, lists)
    index.cp.min_points_per_centroid = 1  # no warning about few codes: recall is measured
    index.train(np.ascontiguousarray(codes))
    return index


def search(index: Any, codes: UInt8[np.ndarray, "queries bytes"], k: int | None, radius: int) -> Found:
    """What the lists looked at hold: the k nearest, or all (None), of those within radius."""
    if k is None:
        limits, distances, numbers = index.range_search(codes, radius + 1)
        return found_of_all(np.diff(limits.astype(np.int64)), distances, numbers)
    distances, numbers = index.search(codes, min(k, max(1, index.ntotal)))
    return make_found(distances, numbers, (numbers >= 0) & (distances <= radius))


def recall_of(
    found: UInt16[np.ndarray, "queries width"], exact: UInt16[np.ndarray, "queries k"], itself: bool
) -> Float64[np.ndarray, " queries"]:
    """The share of its k nearest that each query found; of equally distant ones any counts.

    found, exact: distances.  itself: the queries are stored codes, of which each finds itself, which does not count.
    """
    there = np.count_nonzero(found[:, : exact.shape[1]] <= exact[:, -1:], axis=1)
    wanted = exact.shape[1] - itself
    return (there - itself) / wanted if wanted > 0 else np.ones(len(exact))


def probe_until(
    index: Any,
    codes: UInt8[np.ndarray, "queries bytes"],
    exact: UInt16[np.ndarray, "queries k"],
    recall: float,
) -> float:
    """Sets how many lists a search looks at: a power of two with which stored codes find that share of their nearest, on
    average and twice its standard error below it -> the average. exact: their distances, each itself included."""
    probes = 1
    while True:
        index.nprobe = min(probes, index.nlist)
        reached = recall_of(search(index, codes, exact.shape[1], index.d).distances, exact, True)
        doubt = 2 * reached.std() / np.sqrt(len(reached))
        if reached.mean() - doubt >= recall or index.nprobe == index.nlist:
            return float(reached.mean())
        probes *= 2


def write_ivf(path: Path, index: Any, facts: Mapping[str, Any]) -> None:
    """Replaces the file at once. It is faiss's own, with facts, a checksum and their length behind."""
    faiss: Any = importlib.import_module("faiss")
    temporary = path.with_name(path.name + ".tmp")
    try:
        faiss.write_index_binary(index, str(temporary))
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        counts = {"lists": index.nlist, "probes": index.nprobe, "count": index.ntotal}
        tail = json.dumps({**facts, **counts, "sha256": digest}).encode()
        with open(temporary, "ab") as file:
            file.write(tail + len(tail).to_bytes(4, "little") + _END)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def ivf_facts(path: Path) -> dict[str, Any]:
    """What `write_ivf` noted. Raises FileNotFoundError, and DamagedFile for a file that it did not write."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        end = len(_END) + 4
        try:
            file.seek(size - end)
            tail = file.read()
            length = int.from_bytes(tail[:4], "little")
            file.seek(size - end - length)
            if tail[4:] != _END:
                raise ValueError
            return {**json.loads(file.read(length)), "faiss_bytes": size - end - length}
        except (ValueError, OSError):
            raise DamagedFile(
                f"{path} is truncated, or no approximate index of kdhash; make it anew"
            ) from None


def read_ivf(path: Path) -> tuple[Any, dict[str, Any]]:
    """(IndexBinaryIVF, facts) of a file. Raises as `ivf_facts`, and DamagedFile where its contents have changed."""
    faiss: Any = importlib.import_module("faiss")
    facts = ivf_facts(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        left = facts["faiss_bytes"]
        while left:
            block = file.read(min(left, 2**24))
            digest.update(block)
            left -= len(block)
    if digest.hexdigest() != facts["sha256"]:
        raise DamagedFile(f"{path} has changed since it was written; make it anew")
    index = faiss.read_index_binary(str(path))
    index.nprobe = facts["probes"]
    return index, facts

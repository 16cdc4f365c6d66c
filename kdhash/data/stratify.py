"""Seeded choices of rows by the pictures' ids, whatever their order and any library's random stream."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int64


def hash_order(ids: Sequence[str], salt: str) -> Int64[np.ndarray, " n"]:
    """A permutation of the rows: ascending sha256 of '<salt>/<id>'. It never changes."""
    digests = [hashlib.sha256(f"{salt}/{name}".encode()).digest() for name in ids]
    return np.array(sorted(range(len(digests)), key=digests.__getitem__), dtype=np.int64)


def pick_per_class(
    labels: Int[np.ndarray, " n"],
    ids: Sequence[str],
    rows: Int64[np.ndarray, " candidates"],
    per_class: int,
    salt: str,
    class_names: Sequence[str],
) -> Int64[np.ndarray, " picked"]:
    """`per_class` of the candidate `rows` of every class, ascending.

    Raises ValueError, naming the class, where a class has too few candidates.
    """
    candidates = np.asarray(rows, dtype=np.int64)
    shuffled = candidates[hash_order([ids[row] for row in candidates], salt)]
    picked = []
    for label, name in enumerate(class_names):
        members = shuffled[labels[shuffled] == label][:per_class]
        if len(members) < per_class:
            raise ValueError(f"class {name!r} has {len(members)} pictures to choose {per_class} from")
        picked.append(members)
    return np.sort(np.concatenate(picked))

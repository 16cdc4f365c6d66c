"""Hamming distances of packed codes, and where they are computed: compiled kernels or NumPy, and in how many threads."""

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8, UInt16, UInt64

from kdhash.retrieval.codes import as_words, check_packed

BACKEND_VARIABLE = "KDHASH_HAMMING"

Result = TypeVar("Result")


@functools.cache
def _import_kernels() -> ModuleType | None:
    try:
        from kdhash.retrieval import kernels
    except ImportError:
        return None
    return kernels


def kernels() -> ModuleType | None:
    """The compiled kernels, or None where NumPy does the work: Numba is absent, or KDHASH_HAMMING=numpy.

    KDHASH_HAMMING is `auto` (the default), `numba` or `numpy`. Both paths give the same results.
    Raises ValueError for another word, ImportError for `numba` where it cannot be imported.
    """
    wish = os.environ.get(BACKEND_VARIABLE, "auto")
    if wish not in ("auto", "numba", "numpy"):
        raise ValueError(f"{BACKEND_VARIABLE}: expected auto, numba or numpy, got {wish!r}")
    module = None if wish == "numpy" else _import_kernels()
    if wish == "numba" and module is None:
        raise ImportError(f"{BACKEND_VARIABLE}=numba, but numba cannot be imported: pip install numba")
    return module


def threads() -> int:
    """Numba's number of threads, set by NUMBA_NUM_THREADS or `numba.set_num_threads`; 1 where NumPy does the work."""
    if kernels() is None:
        return 1
    import numba

    return numba.get_num_threads()


def map_query_blocks(function: Callable[[slice], Result], queries: int, block: int) -> list[Result]:
    """[function(rows) for each block of query rows], in order, in `threads()` threads."""
    block = max(1, min(block, math.ceil(queries / threads())))
    rows = [slice(first, min(first + block, queries)) for first in range(0, queries, block)]
    if threads() == 1 or len(rows) <= 1:
        return [function(part) for part in rows]
    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(function, rows))


def check_code_pair(
    query: UInt8[np.ndarray, "queries bytes"], database: UInt8[np.ndarray, "items bytes"]
) -> tuple[UInt8[np.ndarray, "queries bytes"], UInt8[np.ndarray, "items bytes"]]:
    """Both arrays, if they are packed codes of the same length; else ValueError naming what is wrong."""
    query, database = check_packed("query", query), check_packed("database", database)
    if query.shape[1] != database.shape[1]:
        raise ValueError(
            f"query has codes of {query.shape[1] * 8} bits, database of {database.shape[1] * 8}: "
            "encode both alike"
        )
    if len(database) >= 2**31:
        raise ValueError(
            f"database: at most 2**31 - 1 codes in one search, got {len(database)}: search in parts"
        )
    return check_bits(query), database


def check_bits(query: UInt8[np.ndarray, "queries bytes"]) -> UInt8[np.ndarray, "queries bytes"]:
    """The array itself, if its distances fit into 16 bits, with one to spare; else ValueError."""
    if query.shape[1] * 8 >= 2**16:
        raise ValueError(f"query: at most 65,528 bits, got {query.shape[1] * 8}")
    return query


def query_and_database_words(
    query: UInt8[np.ndarray, "queries bytes"], database: UInt8[np.ndarray, "items bytes"]
) -> tuple[UInt64[np.ndarray, "queries words"], UInt64[np.ndarray, "words items"]]:
    """The layout of the kernels: a query's words side by side, the database word by word."""
    return query_words_of(query), as_words(database)


def query_words_of(query: UInt8[np.ndarray, "queries bytes"]) -> UInt64[np.ndarray, "queries words"]:
    """A query's words side by side."""
    words = np.ascontiguousarray(as_words(query).T).view()
    # Numba compiles a kernel once for writable and once for read-only arrays: let there be one sort
    words.flags.writeable = False
    return words


def hamming_distances(
    query: UInt8[np.ndarray, "queries bytes"], database: UInt8[np.ndarray, "items bytes"]
) -> UInt16[np.ndarray, "queries items"]:
    """Number of differing bits between every query and every database code.

    The whole matrix, two bytes a pair; searches and the metrics do without it. Raises ValueError for arrays
    that are not packed codes of one length.
    """
    query, database = check_code_pair(query, database)
    query_words, database_words = query_and_database_words(query, database)
    out = np.empty((len(query), len(database)), np.uint16)
    compiled = kernels()

    def fill(rows: slice) -> None:
        if compiled is None:
            out[rows] = numpy_distances(query_words[rows], database_words)
        else:
            compiled.fill_distance_matrix(query_words[rows], database_words, out[rows])

    map_query_blocks(fill, len(query), 64)
    return out


def numpy_distances(
    query_words: np.ndarray, database_words: np.ndarray
) -> UInt16[np.ndarray, "queries items"]:
    """Distances of queries [q, words] and database [words, n] by NumPy's popcount."""
    total = np.zeros((len(query_words), database_words.shape[1]), np.uint16)
    for word in range(len(database_words)):
        total += np.bitwise_count(query_words[:, word, None] ^ database_words[word])
    return total


def resolve_k(k: int | None, items: int) -> int:
    """k as a number of ranks: None, 0 and more than there are mean all items; negative is an error."""
    if k is not None and k < 0:
        raise ValueError(f"k: expected a positive number of ranks, or 0 for all, got {k}")
    return min(k, items) if k else items

"""Exact search by faiss: IndexBinaryFlat."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from kdhash.retrieval.engines.embedded import EmbeddedEngine
from kdhash.retrieval.engines.request import found_of_all, make_found
from kdhash.retrieval.found import Found


class FaissFlatEngine(EmbeddedEngine):
    """A scan by faiss, on faiss's number of threads. Holds every code twice: faiss keeps a copy.

    faiss promises no order among equal distances: of the items at the k-th distance any may be found.
    """

    name = "faiss_flat"
    stable = False

    def __init__(self, bits: int):
        super().__init__(bits)
        self._index: Any = None

    def _search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        k: int | None,
        radius: int,
        keep: Bool[np.ndarray, " n"] | None,
    ) -> Found:
        # faiss's classes take NumPy arrays, which their types do not know
        faiss: Any = importlib.import_module("faiss")

        if self._index is None:
            self._index = faiss.IndexBinaryFlat(self.bits)
            self._index.add(self._codes)
        only = None
        if keep is not None:
            # faiss's bitmaps have the least significant bit first
            only = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(np.packbits(keep, bitorder="little")))
        if k is None:
            limits, distances, rows = self._index.range_search(codes, radius + 1, params=only)
            return found_of_all(np.diff(limits.astype(np.int64)), distances, self._numbers[rows])
        distances, rows = self._index.search(codes, k, params=only)
        there = (rows >= 0) & (distances <= radius)
        return make_found(distances, self._numbers[rows], there)

    def _changed(self) -> None:
        self._index = None  # made again at the next search, at the speed of a copy

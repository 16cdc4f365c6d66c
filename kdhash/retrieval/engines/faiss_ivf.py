"""Approximate search by faiss: IndexBinaryIVF, with its recall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from kdhash.retrieval.engines import ivf
from kdhash.retrieval.engines.exact import ExactEngine
from kdhash.retrieval.engines.request import check_codes, check_numbers
from kdhash.retrieval.found import Found
from kdhash.retrieval.nearest import nearest


class FaissIvfEngine(ExactEngine):
    """Looks at the lists nearest to a query only: faster where codes cluster, and some of the nearest may be missed.

    recall: the share of the 100 nearest that searches shall find, measured with stored codes as queries: other queries, of texts
    for example, may fare worse; `measure_recall` tells.  lists: default about the square root of the number of items.
    A filtered search scans what passes the filter, and is exact. The lists are made at the first search, or by `build`, and
    again when there are four times as many items. Holds every code twice, and its number twice.
    """

    name = "faiss_ivf"
    exact = False
    stable = False

    def __init__(self, bits: int, *, recall: float = 0.99, lists: int | None = None):
        super().__init__(bits)
        if not 0 < recall <= 1:
            raise ValueError(f"recall: expected a share from 0 to 1, got {recall}")
        if lists is not None and lists < 1:
            raise ValueError(f"lists: expected 1 or more, got {lists}")
        self.asked, self.lists = recall, lists
        self.recall: float | None = None
        """recall@100 that was reached when the lists were made; None before"""
        self._index: Any = None
        self._built = 0  # items when the lists were made

    def build(self) -> None:
        """Makes the lists, and sets how many a search looks at. Seconds for a million codes."""
        rng = np.random.default_rng(0)
        count = self.count()
        if not count:
            raise ValueError("no items: add some before the lists are made")
        lists = min(self.lists or ivf.lists_for(count), count)
        sample = rng.choice(count, min(count, lists * ivf.TRAINING), replace=False)
        index = ivf.train(self.bits, self._codes[np.sort(sample)], lists)
        index.add_with_ids(np.ascontiguousarray(self._codes), self._numbers)
        queries = self._codes[rng.choice(count, min(count, ivf.SAMPLE), replace=False)]
        exact = nearest(queries, [self._codes], min(ivf.RANK + 1, count)).distances
        self.recall = ivf.probe_until(index, queries, exact, self.asked)
        self._index, self._built = index, count

    @property
    def probes(self) -> int | None:
        """How many lists a search looks at; None before they are made."""
        return None if self._index is None else self._index.nprobe

    def measure_recall(self, queries: UInt8[np.ndarray, "queries bytes"], k: int = 100) -> float:
        """The share of the k nearest items of these queries that is found; of equally distant ones any counts."""
        queries = check_codes(queries, self.bits)
        exact = nearest(queries, [self._codes], min(k, self.count())).distances
        return (
            float(ivf.recall_of(self.search(queries, k).distances, exact, False).mean())
            if exact.size
            else 1.0
        )

    def add(
        self, numbers: Int64[np.ndarray, " n"], codes: UInt8[np.ndarray, "n bytes"], columns: Any = None
    ) -> None:
        """See `SearchEngine.add`."""
        super().add(numbers, codes, columns)
        if self._index is not None:
            self._index.add_with_ids(check_codes(codes, self.bits), check_numbers(numbers))

    def delete(self, numbers: Int64[np.ndarray, " n"]) -> int:
        """See `SearchEngine.delete`."""
        deleted = super().delete(numbers)
        if self._index is not None and deleted:
            self._index.remove_ids(check_numbers(numbers))
        return deleted

    def close(self) -> None:
        """Lets go of the memory: the engine is empty afterwards."""
        super().close()
        self._index, self.recall = None, None

    def _search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        k: int | None,
        radius: int,
        keep: Bool[np.ndarray, " n"] | None,
    ) -> Found:
        if keep is not None:
            return super()._search(codes, k, radius, keep)
        if self._index is None or self.count() > 4 * self._built:
            self.build()
        return ivf.search(self._index, codes, k, radius)

    def _options(self) -> dict[str, Any]:
        return {"bits": self.bits, "recall": self.asked, "lists": self.lists}

    def _save(self, folder: Path) -> None:
        if self._index is not None:
            ivf.write_ivf(folder / "ivf.faiss", self._index, {"recall": self.recall, "built": self._built})

    def _open(self, folder: Path) -> None:
        if (folder / "ivf.faiss").exists():
            self._index, facts = ivf.read_ivf(folder / "ivf.faiss")
            self.recall, self._built = facts["recall"], facts["built"]

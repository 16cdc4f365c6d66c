"""Exact search by kdhash's compiled scan."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from kdhash.retrieval.engines.embedded import EmbeddedEngine
from kdhash.retrieval.engines.request import found_of_all
from kdhash.retrieval.found import Found
from kdhash.retrieval.nearest import nearest, within


class ExactEngine(EmbeddedEngine):
    """A scan of all codes in memory: exact, in the order (distance, number)."""

    name = "exact"

    def _search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        k: int | None,
        radius: int,
        keep: Bool[np.ndarray, " n"] | None,
    ) -> Found:
        skip = () if keep is None else (~keep,)
        if k is None:
            matches = within(codes, [self._codes], radius, skip=skip)
            return found_of_all(np.diff(matches.offsets), matches.distances, self._numbers[matches.positions])
        found = nearest(codes, [self._codes], k, radius=radius, skip=skip)
        width = int(found.counts.max())
        rows = found.numbers[:, :width]
        return Found(found.distances[:, :width], np.where(rows < 0, -1, self._numbers[rows]), found.counts)

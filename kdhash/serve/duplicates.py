"""Groups of near duplicates, found once for each state of an index."""

import asyncio
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from kdhash.serve.answers import found_rows
from kdhash.serve.encoder import milliseconds_since
from kdhash.serve.refusals import Limits, Refused

SHOWN = 24  # items of a group
PATIENCE_SECONDS = 20.0


class Found(NamedTuple):
    """All groups of an index, the largest first."""

    groups: Any
    """kdhash.retrieval.near_duplicates.Groups"""
    numbers: Int64[np.ndarray, " members"]
    search_ms: float


class Duplicates:
    """Looks for one radius at a time, on a thread of its own: it keeps all cores busy."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="duplicates")
        self._searches: dict[tuple[int, int], asyncio.Future] = {}

    async def answer(self, index: Any, radius: int, groups: int) -> dict[str, Any]:
        """The `groups` largest groups as JSON. Raises Refused: 422 for an index that is too large, 503 while it takes long."""
        if len(index) > self.limits.duplicates_items:
            most = f"{self.limits.duplicates_items:,}"
            raise Refused(422, f"near duplicates are looked for among {most} items at most; use kdhash dups")
        found = await self._found(index, radius)
        shown = await asyncio.get_running_loop().run_in_executor(None, group_rows, index, found, groups)
        return {
            "radius": radius,
            "groups_total": len(found.groups.offsets) - 1,
            "items_total": len(found.numbers),
            "groups": shown,
            "search_ms": round(found.search_ms, 3),
        }

    async def _found(self, index: Any, radius: int) -> Found:
        key = (index.generation, radius)
        if key not in self._searches:
            self._searches = {
                old: search for old, search in self._searches.items() if old[0] == index.generation
            }
            loop = asyncio.get_running_loop()
            self._searches[key] = loop.run_in_executor(self._worker, find_groups, index, radius)
        search = self._searches[key]
        try:
            return await asyncio.wait_for(asyncio.shield(search), PATIENCE_SECONDS)
        except TimeoutError:
            raise Refused(503, "still looking for near duplicates; ask again in a second") from None
        except Exception:
            self._searches.pop(key, None)  # the next one may try again
            raise

    def close(self) -> None:
        """Ends the thread; searches that have not begun are dropped."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def find_groups(index: Any, radius: int) -> Found:
    """Groups of the live items of `index` that are joined by pairs within `radius` bits."""
    from kdhash.retrieval.index_search import numbers_at
    from kdhash.retrieval.near_duplicates import near_groups

    started = time.perf_counter()
    segments = index.segments
    groups = near_groups(
        [segment.codes for segment in segments], radius, skip=[segment.deleted for segment in segments]
    )
    return Found(groups, numbers_at(index, groups.positions), milliseconds_since(started))


def group_rows(index: Any, found: Found, groups: int) -> list[dict[str, Any]]:
    """The largest groups as JSON rows; of each the items that are nearest to its first one."""
    rows = []
    for first, last in itertools.pairwise(found.groups.offsets[: groups + 1].tolist()):
        nearest = first + np.argsort(found.groups.distances[first:last], kind="stable")[:SHOWN]
        distances = found.groups.distances[nearest].tolist()
        rows.append({"count": last - first, "items": found_rows(index, distances, found.numbers[nearest])})
    return rows

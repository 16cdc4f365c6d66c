"""Search engines behind one protocol: the same calls whether codes lie in memory, on accelerators or in a database.

    engine = make_engine("exact", bits=64)
    engine.add(numbers, codes, columns)
    found = engine.search(query_codes, k=10)

Choosing one: docs/scale.md. All pass tests/retrieval/engines/test_conformance.py.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from jaxtyping import Int64, UInt8

from kdhash.retrieval.found import Found

if TYPE_CHECKING:
    from kdhash.retrieval.filters import Filter

# name -> (module, class, extra that brings what it needs)
ENGINES = {
    "exact": ("exact", "ExactEngine", ""),
    "faiss_flat": ("faiss_flat", "FaissFlatEngine", ""),
    "faiss_ivf": ("faiss_ivf", "FaissIvfEngine", ""),
    "accelerator": ("accelerator", "AcceleratorEngine", ""),
    "clickhouse": ("clickhouse", "ClickHouseEngine", "clickhouse"),
    "postgres": ("postgres", "PostgresEngine", "postgres"),
}


class SearchEngine(Protocol):
    """Items, each with a number (0 to 2**63 - 1, chosen by the caller), a packed code and metadata columns."""

    name: str
    bits: int
    exact: bool
    """answers are those of a scan over all items"""
    stable: bool
    """of several items at the k-th distance, those with the lowest numbers are found"""

    def add(
        self, numbers: Int64[np.ndarray, " n"], codes: UInt8[np.ndarray, "n bytes"], columns: Any = None
    ) -> None:
        """Adds n items. columns: a pyarrow.Table of n rows, with the same names and types in every call, or None.

        Raises ValueError, and adds nothing, for a number that is there already or twice (it names it), for codes of another
        length or dtype, and for columns that do not fit.
        """
        ...

    def delete(self, numbers: Int64[np.ndarray, " n"]) -> int:
        """Removes these items -> how many of them were there."""
        ...

    def search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        k: int | None = 10,
        radius: int | None = None,
        where: Filter | None = None,
    ) -> Found:
        """The k nearest items of each query, by distance, then by number; as wide as the longest answer.

        k: from 1 on; above the number of items it gives all; None (needs a radius): all within it. radius: only items at most so
        many bits away. where: only items that pass it. Raises ValueError for codes of another length or dtype and for k below 1
        or radius below 0.
        """
        ...

    def count(self) -> int:
        """How many items there are."""
        ...

    def save(self, path: str | Path) -> None:
        """Writes the folder `path`, from which `open_engine` makes the engine again. A database keeps its own items: then the
        folder says where it is (without a password). Raises FileExistsError where `path` is there already."""
        ...

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The engine that was saved in `path`."""
        ...

    def close(self) -> None:
        """Lets go of memory, connections and locks."""
        ...


def make_engine(name: str, bits: int, **options: Any) -> SearchEngine:
    """A new, empty engine; options are those of its class (`at` and `table` for a database).

    Raises ValueError for an unknown name, a number of bits that 8 does not divide, or a table that is there already, and
    ImportError, which says what to install, where a package is missing.
    """
    return _engine_class(name)(bits=bits, **options)


def open_engine(path: str | Path) -> SearchEngine:
    """The engine that was saved in the folder `path`.

    Raises FileNotFoundError where there is no manifest, and ValueError (DamagedFile) for files that have changed.
    """
    from kdhash.retrieval.engines.embedded import FORMAT
    from kdhash.retrieval.mapped import read_manifest

    return _engine_class(read_manifest(Path(path), FORMAT, "the save method of an engine")["engine"]).open(
        path
    )


def connect_engine(name: str, at: str | Path, table: str) -> SearchEngine:
    """The engine whose items are in a table that exists, of a database: 'clickhouse' or 'postgres'.

    Raises ValueError where there is no such table or it is none of kdhash's, DatabaseError (an OSError) where the database does
    not answer.
    """
    engine = _engine_class(name)
    if not hasattr(engine, "connect"):
        raise ValueError(f"engine: {name!r} is no database; clickhouse and postgres are")
    return engine.connect(at, table)


def _engine_class(name: str) -> Any:
    if name not in ENGINES:
        raise ValueError(f"engine: {name!r} is unknown; there are {', '.join(ENGINES)}")
    module, kind, extra = ENGINES[name]
    try:
        return getattr(importlib.import_module(f"kdhash.retrieval.engines.{module}"), kind)
    except ImportError as error:
        if extra:
            raise ImportError(
                f"the engine {name!r} needs {error.name}: pip install 'kdhash[{extra}]'"
            ) from error
        raise

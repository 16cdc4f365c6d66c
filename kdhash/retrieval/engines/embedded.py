"""What the engines inside this process share: items in memory, ordered by number, and a folder to save them in."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from kdhash.retrieval.engines.request import (
    already_there,
    check_bits,
    check_items,
    check_numbers,
    check_search,
    nothing_found,
    same_columns,
    types_of,
)
from kdhash.retrieval.found import Found
from kdhash.retrieval.mapped import DamagedFile, MappedFolder, file_facts, read_manifest, sync, write_json

if TYPE_CHECKING:
    from kdhash.retrieval.filters import Filter

FORMAT = "kdhash-engine"


class EmbeddedEngine(ABC):
    """Codes, numbers and columns in memory. A subclass searches them in `_search`.

    Rows are in ascending order of the numbers, so that the order (distance, row) is the order (distance, number).
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    stable: ClassVar[bool] = True

    def __init__(self, bits: int):
        self.bits = check_bits(bits)
        self._numbers: Int64[np.ndarray, " n"] = np.empty(0, np.int64)
        self._codes: UInt8[np.ndarray, "n bytes"] = np.empty((0, self.bits // 8), np.uint8)
        self._columns: Any = None

    def add(
        self, numbers: Int64[np.ndarray, " n"], codes: UInt8[np.ndarray, "n bytes"], columns: Any = None
    ) -> None:
        """Adds n items; columns is a pyarrow.Table of n rows, alike in every call, or None. See `SearchEngine.add`."""
        numbers, codes, columns = check_items(numbers, codes, columns, self.bits)
        there = self._find(numbers) >= 0
        if there.any():
            raise already_there(numbers[there][0])
        if self.count():
            have = {} if self._columns is None else types_of(self._columns)
            columns = same_columns(have, columns)
        if not len(numbers):
            return
        merged = np.concatenate([self._numbers, numbers])
        in_order = not self.count() or numbers[0] > self._numbers[-1]
        order = slice(None) if in_order else np.argsort(merged, kind="stable")
        if columns is not None and self.count():
            import pyarrow as pa

            columns = pa.concat_tables([self._columns, columns])
            columns = columns if in_order else columns.take(order)
        self._numbers = merged[order]
        self._codes = np.concatenate([self._codes, codes])[order]
        self._columns = columns
        self._changed()

    def delete(self, numbers: Int64[np.ndarray, " n"]) -> int:
        """Removes these items; how many were there. Numbers that are not there are passed over."""
        rows = self._find(np.unique(check_numbers(numbers)))
        rows = rows[rows >= 0]
        if len(rows):
            keep = np.ones(self.count(), bool)
            keep[rows] = False
            self._numbers, self._codes = self._numbers[keep], self._codes[keep]
            if self._columns is not None:
                self._columns = self._columns.filter(keep)
            self._changed()
        return len(rows)

    def search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        k: int | None = 10,
        radius: int | None = None,
        where: Filter | None = None,
    ) -> Found:
        """The k nearest items of each query; see `SearchEngine.search`."""
        codes, k, radius = check_search(codes, k, radius, self.bits)
        keep = None if where is None else self._passing(where)
        if not len(codes) or not self.count():
            return nothing_found(len(codes))
        return self._search(codes, k if k is None else min(k, self.count()), radius, keep)

    def count(self) -> int:
        """How many items there are."""
        return len(self._numbers)

    def close(self) -> None:
        """Lets go of the memory: the engine is empty afterwards."""
        self._numbers, self._codes, self._columns = (
            np.empty(0, np.int64),
            np.empty((0, self.bits // 8), np.uint8),
            None,
        )
        self._changed()

    def save(self, path: str | Path) -> None:
        """Writes the folder `path`, for `open_engine`. Raises FileExistsError where it is there already."""
        with saved_engine(path, self.name, self._options()) as folder:
            np.save(folder / "numbers.npy", self._numbers)
            np.save(folder / "codes.npy", self._codes)
            if self._columns is not None:
                import pyarrow as pa

                with (
                    pa.OSFile(str(folder / "columns.arrow"), "wb") as file,
                    pa.ipc.new_file(file, self._columns.schema) as out,
                ):
                    out.write_table(self._columns)
            self._save(folder)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The engine that was saved in `path`, its arrays mapped from there. Errors: see `open_engine`."""
        options, files = opened_engine(path, cls.name)
        engine = cls(**options)
        engine._numbers, engine._codes = files.array("numbers.npy"), files.array("codes.npy")
        if "columns.arrow" in files:
            engine._columns = files.table("columns.arrow")
        rows = len(engine._numbers) if engine._columns is None else engine._columns.num_rows
        if engine._codes.shape != (rows, engine.bits // 8) or engine._numbers.shape != (rows,):
            raise DamagedFile(f"{path}: numbers, codes and columns are not of the same number of items")
        engine._open(Path(path))
        return engine

    def _find(self, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The row of each number, -1 where there is none."""
        if not self.count():
            return np.full(len(numbers), -1)
        rows = np.minimum(np.searchsorted(self._numbers, numbers), self.count() - 1)
        return np.where(self._numbers[rows] == numbers, rows, -1)

    def _passing(self, where: Filter) -> Bool[np.ndarray, " n"]:
        if self._columns is None:
            if not self.count():
                return np.ones(0, bool)
            raise ValueError("where: the items of this engine were added without columns")
        return where.mask(self._columns)

    # What a subclass has to say:

    @abstractmethod
    def _search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        k: int | None,
        radius: int,
        keep: Bool[np.ndarray, " n"] | None,
    ) -> Found:
        """The answer for checked arguments, over a row and a query at least; keep: the rows that a filter lets pass."""

    # And what it may say:

    def _options(self) -> dict[str, Any]:
        """The arguments with which the engine is made again."""
        return {"bits": self.bits}

    def _changed(self) -> None:  # noqa: B027
        """Rows have come or gone: what was made of them before is out of date."""

    def _save(self, folder: Path) -> None:  # noqa: B027
        """Writes what else belongs to the engine into its folder."""

    def _open(self, folder: Path) -> None:  # noqa: B027
        """Reads that again."""


@contextlib.contextmanager
def saved_engine(path: str | Path, engine: str, options: Mapping[str, Any]) -> Iterator[Path]:
    """with saved_engine(path, name, options) as folder: a folder that gets its manifest and the name `path` at the end."""
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is already there; remove it first, or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.writing-", dir=path.parent))
    try:
        os.chmod(folder, 0o755)
        yield folder
        files = {file.name: file_facts(file) for file in sorted(folder.iterdir())}
        for name in files:
            sync(folder / name)
        facts = {"format": FORMAT, "version": 1, "engine": engine, "options": dict(options)}
        write_json(folder / "manifest.json", {**facts, "files": files})
        os.rename(folder, path)
        sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def opened_engine(path: str | Path, engine: str) -> tuple[dict[str, Any], MappedFolder]:
    """(options, files) of a folder that an engine of this name has saved."""
    manifest = read_manifest(Path(path), FORMAT, "the save method of an engine")
    if manifest["engine"] != engine:
        raise ValueError(f"{path} was saved by the engine {manifest['engine']!r}, not by {engine!r}")
    return manifest["options"], MappedFolder(Path(path), manifest["files"])

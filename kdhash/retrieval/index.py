"""An index: a folder of segments of packed codes with ids and metadata, memory-mapped, read while others write.

Format: docs/index.md. Writing: `kdhash.retrieval.write_index`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, UInt8

from kdhash.retrieval.codes import check_packed
from kdhash.retrieval.found import Found
from kdhash.retrieval.items import Items, id_keys
from kdhash.retrieval.mapped import DamagedFile, MappedFolder, read_manifest

if TYPE_CHECKING:
    from kdhash.retrieval.filters import Filter

FORMAT = "kdhash-index"
FIELDS = {
    "generation": int,
    "count": int,
    "next_number": int,
    "bits": int,
    "bit_order": str,
    "model": str,
    "searched_by": list,
    "columns": dict,
    "segments": list,
}
# a merge may take a segment away between the reading of the manifest and the opening of the segment
ATTEMPTS = 20
BLOCK = 2**20  # keys looked at in one go


class UnknownItem(ValueError, LookupError):
    """An id or a number that no live item of the index has."""


class Segment(Items):
    """Items that were added together: `Items` with their numbers, and which of them are deleted."""

    def __init__(
        self,
        index: Path,
        manifest: Mapping[str, Any],
        facts: Mapping[str, Any],
        check: bool = True,
        known: MappedFolder | None = None,
    ):
        files, deleted = dict(facts["files"]), facts["deleted"]
        if deleted:
            files[deleted["file"]] = deleted
        super().__init__(index / facts["name"], manifest, files, facts["count"], check, known)
        self.name, self.first_number, self.facts = facts["name"], facts["first_number"], facts
        self.live = self.count
        if deleted:
            bitmap = self._array(deleted["file"], np.uint8, (-(-self.count // 8),))
            self.deleted = np.unpackbits(bitmap, count=self.count).view(bool)
            self.deleted.flags.writeable = False
            self.live -= int(deleted["count"])

    @property
    def items(self) -> Any:
        """ids and metadata, a pyarrow.Table that reads from the file."""
        return self.table

    @property
    def numbers(self) -> Int64[np.ndarray, " n"]:
        """The number of every row, ascending."""
        if "numbers.npy" in self.files:
            return self._array("numbers.npy", np.int64, (self.count,))
        return np.arange(self.first_number, self.first_number + self.count)

    def numbers_at(self, rows: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """The numbers of these rows."""
        return self.numbers[rows] if "numbers.npy" in self.files else rows + self.first_number

    def rows_of(self, numbers: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """The rows of these numbers; -1 for one that is not there or deleted."""
        if "numbers.npy" in self.files:
            rows = np.minimum(np.searchsorted(self.numbers, numbers), self.count - 1)
            there = self.numbers[rows] == numbers
        else:
            rows = numbers - self.first_number
            there = (rows >= 0) & (rows < self.count)
        if self.deleted is not None:
            there = there & ~self.deleted[np.where(there, rows, 0)]
        return np.where(there, rows, -1)


class Index:
    """An index as it was when it was opened; what is written later is seen by `refresh`. Safe for many threads."""

    def __init__(
        self, path: Path, manifest: Mapping[str, Any], segments: Sequence[Segment], check: bool = True
    ):
        self.path, self.manifest, self.segments, self._check = path, manifest, tuple(segments), check
        self.bits: int = manifest["bits"]
        self.bit_order: str = manifest["bit_order"]
        self.model: str = manifest["model"]
        """hash of the model that made the codes; '' where they come from elsewhere"""
        self.searched_by: tuple[str, ...] = tuple(manifest["searched_by"])
        """hashes of the models whose query codes may search these codes"""
        self.generation: int = manifest["generation"]
        self.columns: dict[str, str] = dict(manifest["columns"])
        """metadata column -> Arrow type, as text"""

    def __len__(self) -> int:
        return self.manifest["count"]

    def refresh(self) -> Index:
        """This index, or a newly opened one where somebody has written meanwhile."""
        if read_index_manifest(self.path) == self.manifest:
            return self
        return open_index(self.path, check=self._check, known=self)

    def search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        *,
        k: int | None = 10,
        radius: int | None = None,
        where: Filter | None = None,
        engine: str = "exact",
    ) -> Found:
        """The k nearest live items of each query, by Hamming distance, then number.

        radius: only those within so many bits (inclusive); k=None: all of these.  where: only items that pass.  engine:
        'exact', or an approximate one. Raises ValueError for codes of another length, for k or radius below 0 or both None,
        for a filter that does not fit the columns, and for an engine that is not there.
        """
        from kdhash.retrieval.index_search import search_index

        codes = check_packed("codes", codes)
        if codes.shape[1] * 8 != self.bits:
            raise ValueError(f"codes: {codes.shape[1] * 8} bits, {self.path} has codes of {self.bits}")
        return search_index(self, codes, k, radius, where, engine)

    def rows(
        self, numbers: Sequence[int] | Int64[np.ndarray, " n"], columns: Sequence[str] | None = None
    ) -> Any:
        """A pyarrow.Table, a row a number, in the order given: 'number', then `columns` ('id' and all metadata where None).

        Raises UnknownItem for a number that no live item has, ValueError for a column that is not there.
        """
        import pyarrow as pa

        names = ["id", *self.columns] if columns is None else [name for name in columns if name != "number"]
        for name in names:
            if name != "id" and name not in self.columns:
                raise ValueError(
                    f"no column {name!r} in {self.path}; its columns are id, {', '.join(self.columns)}"
                )
        numbers = np.asarray(numbers, np.int64)
        parts, back = [], []
        for segment, at, rows in self._places(numbers):
            there = set(segment.table.column_names)
            # always with an id: a table without columns has no rows
            parts.append(
                segment.take(rows, ["id", *(name for name in names if name != "id" and name in there)])
            )
            back.append(at)
        if not parts:  # also an index without items can be asked for no rows
            return pa.table({"number": numbers} | {name: pa.nulls(0) for name in names})
        # a column that a segment does not have is empty there
        table = pa.concat_tables(parts, promote_options="default").combine_chunks()
        for name in names:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(numbers)))
        order = np.argsort(np.concatenate(back), kind="stable")
        table = table.take(pa.array(order)).add_column(0, "number", pa.array(numbers))
        return table.select(["number", *names])

    def codes_of(self, numbers: Sequence[int] | Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n bytes"]:
        """The packed codes of these numbers. Raises UnknownItem for one that no live item has."""
        numbers = np.asarray(numbers, np.int64)
        codes = np.empty((len(numbers), self.bits // 8), np.uint8)
        for segment, at, rows in self._places(numbers):
            codes[at] = segment.codes[rows]
        return codes

    def number_of(self, id: str) -> int:
        """The number of the live item with this id. Raises UnknownItem where there is none."""
        places = self.find([id])
        if id not in places:
            raise UnknownItem(f"no item {id!r} in {self.path}")
        segment, row = places[id]
        return int(self.segments[segment].numbers_at(np.array([row]))[0])

    def thumbnail(self, number: int) -> bytes | None:
        """JPEG bytes of an item's thumbnail, None where it has none. Raises UnknownItem for a number that is not there."""
        [(segment, _, rows)] = self._places(np.array([number], np.int64))
        return segment.thumbnail(int(rows[0]))

    def find(self, ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """id -> (segment, row), for those of `ids` that live items have."""
        wanted = list(dict.fromkeys(ids))
        keys = np.unique(id_keys(wanted))
        names, places = set(wanted), {}
        for number, segment in enumerate(self.segments):
            rows = rows_with_keys(segment, keys)
            for name, row in zip(segment.ids_at(rows) if len(rows) else (), rows.tolist(), strict=True):
                if name in names:  # equal keys are not yet equal ids
                    places[name] = number, row
        return places

    def _places(self, numbers: Int64[np.ndarray, " n"]) -> list[tuple[Segment, np.ndarray, np.ndarray]]:
        """(segment, positions in `numbers`, rows in the segment) for each segment that has some of them."""
        firsts = np.array([segment.first_number for segment in self.segments], np.int64)
        owner = np.searchsorted(firsts, numbers, "right") - 1
        places = []
        for position in np.unique(owner):
            at = np.flatnonzero(owner == position)
            rows = self.segments[position].rows_of(numbers[at]) if position >= 0 else np.full(len(at), -1)
            if (rows < 0).any():
                raise UnknownItem(f"no item with number {numbers[at[rows < 0][0]]} in {self.path}")
            places.append((self.segments[position], at, rows))
        return places


def rows_with_keys(items: Items, keys: np.ndarray) -> Int64[np.ndarray, " m"]:
    """Live rows whose key is among `keys` (uint64, ascending)."""
    found = [np.empty(0, np.int64)]
    for first in range(0, items.count if len(keys) else 0, BLOCK):
        block = items.keys[first : first + BLOCK]
        # one key, the most common case, needs no search
        nearest = keys[0] if len(keys) == 1 else keys[np.minimum(np.searchsorted(keys, block), len(keys) - 1)]
        found.append(np.flatnonzero(block == nearest) + first)
    rows = np.concatenate(found)
    return rows if items.deleted is None else rows[~items.deleted[rows]]


def read_index_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an index. Raises FileNotFoundError and ValueError as `open_index` does."""
    return read_manifest(path, FORMAT, "kdhash index build", FIELDS)


def open_index(path: str | Path, *, check: bool = True, known: Index | None = None) -> Index:
    """Opens an index; milliseconds, whatever its size.

    check: compare contents with their sha256 when they are first used.  known: the same index, opened earlier: what it has
    checked is not checked again.

    Raises FileNotFoundError for a folder without manifest, ValueError for another format or version, DamagedFile, which
    names the file, for one that is missing or truncated (and, at first use, changed).
    """
    folder = Path(path)
    mapped = {segment.name: segment.files for segment in known.segments} if known else {}
    before = None
    for _ in range(ATTEMPTS):
        manifest = read_index_manifest(folder)
        try:
            segments = [
                Segment(folder, manifest, facts, check, mapped.get(facts["name"]))
                for facts in manifest["segments"]
            ]
        except FileNotFoundError as error:
            missing = error.filename
            if manifest == before:
                break
            before = manifest
        else:
            return Index(folder, manifest, segments, check)
    raise DamagedFile(
        f"{missing} is missing, and the manifest lists it; bring it back from a copy, or build the index anew"
    )

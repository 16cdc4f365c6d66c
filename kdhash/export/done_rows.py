"""Rows that have been encoded: blocks of a run that goes on, and the folder or index that is brought up to date."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from kdhash.retrieval.items import Items
from kdhash.retrieval.mapped import sync, write_json

# columns of a block beside those of items
CODE, THUMB, REASON = "kdhash.code", "kdhash.thumb", "kdhash.reason"
KEYS = ("id", "image", "text", "bytes", "mtime_ns", "sha256")  # what rows are recognised by


class Workshop:
    """The folder `<out>.partial`, in which a run keeps what it has done until all is done; one run at a time.

    Raises ValueError where another run is at work on `out`.
    """

    def __init__(self, out: Path):
        self.out, self.path = out, out.with_name(f"{out.name}.partial")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / "lock", "a+")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"another kdhash encode is at work on {out}; wait for it, or stop it") from None
        self._recover()

    def begin(self, facts: dict[str, Any]) -> None:
        """facts: what blocks depend on (the model, ...). Raises ValueError, naming the first that differs, where the folder was
        begun with others."""
        about = self.path / "about.json"
        begun = json.loads(about.read_text()) if about.is_file() else facts
        for name, value in facts.items():
            if begun.get(name) != value:
                raise ValueError(
                    f"{self.path} was begun with {name} {begun.get(name)}, and this is {value}: give what it was begun "
                    f"with, or remove {self.path}"
                )
        write_json(about, facts)

    def _recover(self) -> None:
        """Of a run that was killed while it put the new folder in the place of the old one."""
        if not self.out.exists() and (self.path / "old").is_dir() and (self.path / "new").is_dir():
            os.rename(self.path / "new", self.out)
        for name in ("old", "new"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for leftover in [*self.path.glob(".new.writing-*"), *self.path.glob("*.tmp")]:
            shutil.rmtree(leftover, ignore_errors=True)
            leftover.unlink(missing_ok=True)

    def blocks(self) -> list[Any]:
        """The blocks of earlier runs, as pyarrow.Tables that read from their files; one that is not whole is removed."""
        import pyarrow as pa

        tables = []
        for path in sorted(self.path.glob("block-*.arrow")):
            try:
                tables.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
            except pa.ArrowException:  # a crash of the machine, not of the run
                path.unlink()
        return tables

    def write_block(self, table: Any) -> Any:
        """Keeps a block, under the next number, and gives it back as it reads from its file."""
        import pyarrow as pa

        last = max((int(path.stem.split("-")[1]) for path in self.path.glob("block-*.arrow")), default=-1)
        path = self.path / f"block-{last + 1:06}.arrow"
        temporary = path.with_name(path.name + ".tmp")
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        sync(temporary)
        os.replace(temporary, path)
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def publish(self) -> None:
        """Puts the finished folder `new` in the place of `out`."""
        if self.out.exists():
            os.rename(self.out, self.path / "old")
        os.rename(self.path / "new", self.out)
        sync(self.out.parent)

    def remove(self) -> None:
        """All is done."""
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        self._lock.close()
        with contextlib.suppress(OSError):  # nothing was kept
            if not any(self.path.glob("block-*.arrow")):
                shutil.rmtree(self.path)


class DoneRows:
    """Rows of several parts, one after the other: first those of blocks, then those of items that are brought up to date.

    Places are row numbers over all parts; parts that are appended later can be taken from, and are not looked up.
    """

    def __init__(self, blocks: Sequence[Any], items: Sequence[Items] = ()):
        import pyarrow as pa

        self._parts: list[Any] = []
        self._starts = [0]
        self._items_from = 0
        looked_up: list[tuple[Any, np.ndarray]] = []
        for block in reversed(blocks):  # the newest first: it is the one that is looked up
            looked_up.append((block, np.arange(block.num_rows) + self._starts[-1]))
            self.append(block)
        self._items_from = len(looked_up)
        for part in items:
            rows, deleted = np.arange(part.count), getattr(part, "deleted", None)
            rows = rows if deleted is None else rows[~deleted]
            table = part.table if deleted is None else part.take(rows, _keys(part.table))
            looked_up.append((table, rows + self._starts[-1]))
            self.append(part)
        tables = [table.select(_keys(table)) for table, _ in looked_up]
        self._keys = pa.concat_tables(tables, promote_options="default") if tables else None
        self._places = np.concatenate([np.empty(0, np.int64), *(places for _, places in looked_up)])
        self._first_item = sum(len(places) for _, places in looked_up[: self._items_from])
        self._items_to = len(self._parts)

    def append(self, part: Any) -> np.ndarray:
        """The places of the rows of a new part, a block or Items."""
        first = self._starts[-1]
        self._parts.append(part)
        count = part.count if isinstance(part, Items) else part.num_rows
        self._starts.append(first + count)
        return np.arange(first, first + count)

    def unchanged(
        self, listing: Any, compare: Sequence[str], *, blocks: bool = True, items: bool = True
    ) -> Int64[np.ndarray, " n"]:
        """For each row of `listing` the place of the row with its id and the same values in `compare`; -1 where there is none.

        blocks, items: where to look; what both have is taken from the newest block.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        places = np.full(listing.num_rows, -1)
        if self._keys is None:
            return places
        first = 0 if blocks else self._first_item
        keys = self._keys.slice(first, None if items else max(self._first_item - first, 0))
        if not keys.num_rows or not set(compare) <= set(keys.column_names):
            return places
        at = pc.index_in(listing["id"], value_set=keys["id"])
        rows = np.flatnonzero(at.is_valid().to_numpy())
        found = at.drop_null().to_numpy().astype(np.int64)
        same = np.ones(len(rows), bool)
        for name in compare:
            equal = pc.equal(keys[name].take(pa.array(found)), listing[name].take(pa.array(rows)))
            same &= pc.fill_null(equal, False).to_numpy()
        places[rows[same]] = self._places[first + found[same]]
        return places

    def ids(self) -> Any:
        """The ids of the items that are brought up to date, a pyarrow array."""
        import pyarrow as pa

        return pa.array([], pa.string()) if self._keys is None else self._keys["id"].slice(self._first_item)

    def is_item(self, places: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether these places are those of items that are brought up to date."""
        first, last = self._starts[self._items_from], self._starts[self._items_to]
        return (places >= first) & (places < last)

    def are_items_in_order(self, places: Int64[np.ndarray, " n"]) -> bool:
        """Whether these places are those of the items, the first, the second, and so on."""
        first = self._starts[self._items_from]
        return bool(self.is_item(places).all()) and np.array_equal(
            places, np.arange(first, first + len(places))
        )

    def content_lookup(self, column: str, rows: Any) -> Callable[[str], int]:
        """sha256 (or text) -> the place of an item that has it in `column`, or -1. Safe for many threads.

        rows: a table of what will be asked for; where both sides know 'bytes', only items of these sizes are looked at.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        keys = None if self._keys is None else self._keys.slice(self._first_item)
        if keys is None or not keys.num_rows or not rows.num_rows or column not in keys.column_names:
            return lambda content: -1
        values, places = keys[column], self._places[self._first_item :]
        if "bytes" in keys.column_names and "bytes" in rows.column_names:
            alike = np.flatnonzero(pc.is_in(keys["bytes"], value_set=pc.unique(rows["bytes"])).to_numpy())
            values, places = values.take(pa.array(alike)), places[alike]
        # eight bytes a row, sorted, instead of a table of strings
        hashes = np.fromiter((hash(value) for value in values.to_pylist()), np.int64, len(values))
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]

        def lookup(content: str) -> int:
            wanted = hash(content)
            for at in range(int(np.searchsorted(hashes, wanted)), len(hashes)):
                if hashes[at] != wanted:
                    break
                if values[order[at].item()].as_py() == content:
                    return int(places[order[at]])
            return -1

        return lookup

    def column(self, places: Int64[np.ndarray, " n"], name: str, kind: Any) -> Any:
        """A column's values at these places, a pyarrow array of type `kind`; null where a part does not have it."""
        import pyarrow as pa

        def values(part: Any, rows: np.ndarray) -> Any:
            table = part.table if isinstance(part, Items) else part
            if name not in table.column_names:
                return pa.nulls(len(rows), kind)
            if isinstance(part, Items):
                return part.take(rows, [name])[name].combine_chunks().cast(kind)
            return table[name].take(pa.array(rows)).combine_chunks().cast(kind)

        pieces, back = [], []
        for part, at, rows in self._spread(places):
            pieces.append(values(part, rows))
            back.append(at)
        if not pieces:
            return pa.nulls(0, kind)
        order = np.argsort(np.concatenate(back), kind="stable")
        return pa.chunked_array(pieces).combine_chunks().take(pa.array(order))

    def codes(self, places: Int64[np.ndarray, " n"], size: int) -> UInt8[np.ndarray, "n size"]:
        """Packed codes; zeros for rows that were left out."""
        codes = np.zeros((len(places), size), np.uint8)
        for part, at, rows in self._spread(places):
            if isinstance(part, Items):
                codes[at] = part.codes[rows]
            else:
                import pyarrow as pa

                found = part[CODE].take(pa.array(rows)).to_pylist()
                codes[at] = np.frombuffer(b"".join(found), np.uint8).reshape(-1, size)
        return codes

    def thumbs(self, places: Int64[np.ndarray, " n"]) -> list[bytes]:
        """JPEG thumbnails, b'' where there is none."""
        thumbs = [b""] * len(places)
        for part, at, rows in self._spread(places):
            if isinstance(part, Items):
                found = [part.thumbnail(row) or b"" for row in rows.tolist()]
            else:
                import pyarrow as pa

                found = part[THUMB].take(pa.array(rows)).to_pylist()
            for place, thumb in zip(at.tolist(), found, strict=True):
                thumbs[place] = thumb
        return thumbs

    def _spread(self, places: Int64[np.ndarray, " n"]) -> list[tuple[Any, np.ndarray, np.ndarray]]:
        """(part, positions in `places`, rows in the part) for each part that has some of them."""
        owner = np.searchsorted(self._starts, places, side="right") - 1
        spread = []
        for number in np.unique(owner):
            at = np.flatnonzero(owner == number)
            spread.append((self._parts[number], at, places[at] - self._starts[number]))
        return spread


def _keys(table: Any) -> list[str]:
    return [name for name in KEYS if name in table.column_names]

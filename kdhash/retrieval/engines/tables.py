"""What the engines in a database share: a table of numbers, codes and metadata columns, made with the first items.

SQL is built of constants, of names that match NAME, and of parameters. A metadata column may be called anything: one whose name
does not match, or is taken, becomes column_<i>. The table's comment says in JSON what is in it, names and types included.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from jaxtyping import Int64, UInt8, UInt16

from kdhash.retrieval.columns import type_name
from kdhash.retrieval.engines.embedded import opened_engine, saved_engine
from kdhash.retrieval.engines.request import (
    already_there,
    check_bits,
    check_items,
    check_numbers,
    check_search,
    found_of_all,
    nothing_found,
    same_columns,
)
from kdhash.retrieval.found import Found

if TYPE_CHECKING:
    from kdhash.retrieval.filters import Filter

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")
TAKEN = ("number", "code", "distance")
LISTED = 1000  # numbers in one statement: they travel in an address


class DatabaseError(OSError):
    """A database does not answer, or refuses; the message says which and why."""


class NoTable(ValueError):
    """There is no table of this name."""


class Column(NamedTuple):
    """A metadata column."""

    name: str
    """as it is called in filters"""
    identifier: str
    """as it is called in the table"""
    type: str
    """Arrow type as text, like 'string' or 'list<string>'"""


class TableEngine(ABC):
    """Items in a table of a database; a subclass speaks to it.

    bits: of a new table; None where it is there already.  at: the database.  table: letters, digits and _, at most 60.
    model: hash of the model whose codes they are; kept with a new table.
    Raises ValueError for a name of another form, for a table that is there although bits are given, or is not, or is none of
    kdhash's. All methods raise DatabaseError where the database does not answer or refuses.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    stable: ClassVar[bool] = True

    def __init__(self, bits: int | None, *, at: str | Path, table: str, model: str = ""):
        if not NAME.fullmatch(table):
            raise ValueError(
                f"table: expected letters, digits and _, at most 60, not beginning with a digit; got {table!r}"
            )
        self.bits = 0 if bits is None else check_bits(bits)
        self.at, self.table, self.model = self._plain_address(str(at)), table, model
        self._columns: list[Column] | None = None  # None: the table is yet to be made
        self._connect(str(at))
        try:
            there, comment = self._comment()
            if bits is None:
                if not there:
                    raise NoTable(f"there is no table {table!r} in {self.at}")
                self.bits, self.model, self._columns = self._read(comment)
            elif there:
                raise ValueError(
                    f"the table {table!r} is there already in {self.at}: connect to it, drop it, or choose another name"
                )
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, at: str | Path, table: str) -> Self:
        """The engine of a table that is there. Raises as the class does."""
        return cls(None, at=at, table=table)

    def add(
        self, numbers: Int64[np.ndarray, " n"], codes: UInt8[np.ndarray, "n bytes"], columns: Any = None
    ) -> None:
        """See `SearchEngine.add`. The first items determine the columns of the table."""
        numbers, codes, columns = check_items(numbers, codes, columns, self.bits)
        if self._columns is not None:
            columns = same_columns({column.name: column.type for column in self._columns}, columns)
        if not len(numbers):
            return
        if self._columns is None:
            made = name_columns(columns)
            self._create(made, self._facts(made))
            self._columns = made
        else:
            there = np.isin(
                numbers, self._numbers_between(int(numbers[0]), int(numbers[-1])), assume_unique=True
            )
            if there.any():
                raise already_there(numbers[there][0])
        if columns is not None:
            columns = _without_nan(columns.rename_columns([column.identifier for column in self._columns]))
        self._insert(numbers, codes, columns)

    def delete(self, numbers: Int64[np.ndarray, " n"]) -> int:
        """See `SearchEngine.delete`."""
        numbers = np.unique(check_numbers(numbers))
        if self._columns is None:
            return 0
        parts = (numbers[first : first + LISTED] for first in range(0, len(numbers), LISTED))
        return sum(self._delete(part.tolist()) for part in parts)

    def search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        k: int | None = 10,
        radius: int | None = None,
        where: Filter | None = None,
    ) -> Found:
        """See `SearchEngine.search`. One statement a query."""
        codes, k, radius = check_search(codes, k, radius, self.bits)
        condition = ""
        parameters: Mapping[str, Any] = {}
        if where is not None and self._columns is not None:
            where.check({column.name: column.type for column in self._columns})
            identifiers = {column.name: self._quoted(column.identifier) for column in self._columns}
            condition, parameters = where.sql(self.name, identifiers.__getitem__)
        if self._columns is None:
            return nothing_found(len(codes))
        answers = [self._select(code.tobytes(), k, radius, condition, parameters) for code in codes]
        if not answers:
            return nothing_found(0)
        distances, numbers = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return found_of_all(np.array([len(found) for found, _ in answers]), distances, numbers)

    def count(self) -> int:
        """How many items there are."""
        return 0 if self._columns is None else self._count()

    @property
    def columns(self) -> list[str]:
        """The names of the metadata columns."""
        return [column.name for column in self._columns or ()]

    def numbers(self) -> Int64[np.ndarray, " n"]:
        """The numbers of all items, ascending."""
        if self._columns is None:
            return np.empty(0, np.int64)
        return np.sort(self._numbers_between(0, 2**63 - 1))

    def save(self, path: str | Path) -> None:
        """Writes where the table is, without a password, to the folder `path`. The items stay in the database."""
        with saved_engine(path, self.name, self._options()):
            pass

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The engine of the table of which `save` wrote."""
        options, _ = opened_engine(path, cls.name)
        try:
            engine = cls.connect(options["at"], options["table"])
        except NoTable:
            return cls(**options)  # saved before it had any items
        if engine.bits != options["bits"]:
            engine.close()
            raise ValueError(
                f"{path} is about codes of {options['bits']} bits, the table {engine.table!r} has {engine.bits}"
            )
        return engine

    def _options(self) -> dict[str, Any]:
        return {"bits": self.bits, "at": self.at, "table": self.table, "model": self.model}

    def _facts(self, columns: list[Column]) -> str:
        facts = {"format": "kdhash-table", "version": 1, "bits": self.bits, "bit_order": "msb-first"}
        return json.dumps({**facts, "model": self.model, "columns": [list(column) for column in columns]})

    def _read(self, comment: str) -> tuple[int, str, list[Column]]:
        try:
            facts = json.loads(comment)
            if facts["format"] != "kdhash-table":
                raise KeyError
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"the table {self.table!r} in {self.at} is none of kdhash's: its comment does not say so"
            ) from None
        if facts["version"] != 1:
            raise ValueError(
                f"the table {self.table!r} has version {facts['version']}, this kdhash reads version 1"
            )
        columns = [Column(*column) for column in facts["columns"]]
        for column in columns:
            if not NAME.fullmatch(column.identifier):
                raise ValueError(
                    f"the table {self.table!r}: {column.identifier!r} in its comment is no name of a column"
                )
        return check_bits(facts["bits"]), facts["model"], columns

    # What a subclass has to say:

    @abstractmethod
    def _plain_address(self, at: str) -> str:
        """`at` without a password."""

    @abstractmethod
    def _connect(self, at: str) -> None:
        """Raises DatabaseError."""

    @abstractmethod
    def _quoted(self, identifier: str) -> str:
        """`identifier` as the database writes names in its language."""

    @abstractmethod
    def _comment(self) -> tuple[bool, str]:
        """Whether the table is there, and its comment."""

    @abstractmethod
    def _create(self, columns: list[Column], comment: str) -> None:
        """Makes the empty table, with kdhash's own columns and these."""

    @abstractmethod
    def _numbers_between(self, first: int, last: int) -> Int64[np.ndarray, " m"]:
        """The numbers that are there, from `first` to `last`."""

    @abstractmethod
    def _insert(
        self, numbers: Int64[np.ndarray, " n"], codes: UInt8[np.ndarray, "n bytes"], columns: Any
    ) -> None:
        """Adds rows; `columns` is a pyarrow.Table of as many, or None."""

    @abstractmethod
    def _delete(self, numbers: list[int]) -> int:
        """Takes rows out; how many of these numbers there were."""

    @abstractmethod
    def _select(
        self, code: bytes, k: int | None, radius: int, condition: str, parameters: Mapping[str, Any]
    ) -> tuple[UInt16[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """The distances and numbers that one query finds, in order."""

    @abstractmethod
    def _count(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection."""


def name_columns(columns: Any) -> list[Column]:
    """Identifiers for the columns of a pyarrow.Table (or None): their own names where these are plain and free."""
    named: list[Column] = []
    taken = set(TAKEN)
    for place, field in enumerate([] if columns is None else columns.schema):
        free = NAME.fullmatch(field.name) and field.name.lower() not in taken
        identifier = field.name if free else f"column_{place}"
        while identifier.lower() in taken:
            identifier += "_"
        taken.add(identifier.lower())
        named.append(Column(field.name, identifier, type_name(field.type)))
    return named


def sql_type(column: Column, scalars: Mapping[str, str], array: str) -> str:
    """The type of a column in a database: scalars by Arrow type as text; array: a list of `{}`.

    Raises ValueError naming a column of a type that is not stored.
    """
    inner = column.type.removeprefix("list<").removesuffix(">")
    kind = next((kind for arrow, kind in scalars.items() if re.fullmatch(arrow, inner)), None)
    if kind is None:
        raise ValueError(
            f"columns: {column.name!r} is {column.type}; strings, numbers, true and false, dates, times and lists of them can be "
            "stored: leave the column out, or give it another type"
        )
    return array.format(kind) if inner != column.type else kind


def _without_nan(columns: Any) -> Any:
    """NaN is no value: for filters it is what a missing one is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, field in enumerate(columns.schema):
        if pa.types.is_floating(field.type):
            column = columns[field.name]
            columns = columns.set_column(
                place, field, pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
            )
    return columns

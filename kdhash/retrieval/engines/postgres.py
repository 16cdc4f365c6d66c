"""Exact search in PostgreSQL 14 or newer, with pgvector where the database has it.

A code is bit(n). `<~>` of pgvector and bit_count(code # query) of PostgreSQL count the same bits. Distances are sorted as
integers, so that no index of the table answers in their stead: an HNSW index, which somebody may have made for other queries,
would find only some of the nearest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import psycopg
from jaxtyping import Int64, UInt8, UInt16
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kdhash.retrieval.engines.tables import Column, DatabaseError, TableEngine, sql_type

OLDEST = 140_000  # bit_count came with PostgreSQL 14
TYPES = {
    "string|null": "text",
    "binary": "bytea",
    "bool": "boolean",
    "u?int8|int16": "smallint",
    "uint16|int32": "integer",
    "uint32|int64": "bigint",
    "uint64": "numeric(20)",
    "halffloat|float": "real",
    "double": "double precision",
    "date32.*": "date",
    "timestamp[^,]*": "timestamp",
    "timestamp.*": "timestamptz",
}


class PostgresEngine(TableEngine):
    """at: postgresql://user@host:port/database or 'host=... dbname=...'; the password as PostgreSQL's own programs find it
    (PGPASSWORD, ~/.pgpass), or in the address.  pgvector: None: where it is there; False: never."""

    name = "postgres"

    def __init__(
        self, bits: int | None, *, at: str, table: str, model: str = "", pgvector: bool | None = None
    ):
        self._pgvector = pgvector
        super().__init__(bits, at=at, table=table, model=model)

    def _plain_address(self, at: str) -> str:
        try:
            parts = conninfo_to_dict(at)
        except psycopg.ProgrammingError as error:
            raise ValueError(f"at: no address of PostgreSQL ({_first_line(error)})") from None
        return make_conninfo("", **{name: value for name, value in parts.items() if name != "password"})

    def _connect(self, at: str) -> None:
        try:
            self._connection = psycopg.connect(at, autocommit=True)
        except psycopg.OperationalError as error:
            raise DatabaseError(f"PostgreSQL at {self.at} does not answer: {_first_line(error)}") from None
        version = self._connection.info.server_version
        if version < OLDEST:
            self._connection.close()
            raise ValueError(
                f"PostgreSQL {version // 10_000} at {self.at} is too old: kdhash needs version 14 or newer"
            )
        if self._pgvector is None:
            found = self._connection.execute(
                "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            ).fetchone()
            # distances of bits came with 0.7
            self._pgvector = found is not None and tuple(map(int, found[0].split(".")[:2])) >= (0, 7)

    def _quoted(self, identifier: str) -> str:
        return f'"{identifier}"'

    def _comment(self) -> tuple[bool, str]:
        found = self._connection.execute(
            "SELECT to_regclass(%s) IS NOT NULL, obj_description(to_regclass(%s), 'pg_class')",
            [self._quoted(self.table)] * 2,
        ).fetchone()
        return (bool(found[0]), found[1] or "") if found else (False, "")

    def _create(self, columns: list[Column], comment: str) -> None:
        kinds = [f"{self._quoted(c.identifier)} {sql_type(c, TYPES, '{}[]')}" for c in columns]
        fields = ", ".join(["number bigint PRIMARY KEY", f"code bit({self.bits}) NOT NULL", *kinds])
        with self._refusals(), self._connection.transaction():
            self._run(f"CREATE TABLE {{}} ({fields})")
            # a comment takes no parameters
            self._run(f"COMMENT ON TABLE {{}} IS {sql.Literal(comment).as_string()}")

    def _numbers_between(self, first: int, last: int) -> Int64[np.ndarray, " m"]:
        rows = self._run(
            "SELECT number FROM {} WHERE number BETWEEN %(first)s AND %(last)s",
            {"first": first, "last": last},
        )
        return np.array([row[0] for row in rows.fetchall()], np.int64)

    def _insert(
        self, numbers: Int64[np.ndarray, " n"], codes: UInt8[np.ndarray, "n bytes"], columns: Any
    ) -> None:
        names = [] if columns is None else columns.column_names
        fields = sql.SQL(", ").join(map(sql.Identifier, ["number", "code", *names]))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(self.table), fields)
        rows = zip(
            numbers.tolist(), _bit_texts(codes), *(columns[name].to_pylist() for name in names), strict=True
        )
        try:
            with self._refusals(), self._connection.cursor() as cursor, cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
        except psycopg.DataError as error:
            raise ValueError(f"PostgreSQL refuses a value: {_first_line(error)}") from None

    def _delete(self, numbers: list[int]) -> int:
        return self._run("DELETE FROM {} WHERE number = ANY(%(numbers)s)", {"numbers": numbers}).rowcount

    def _select(
        self, code: bytes, k: int | None, radius: int, condition: str, parameters: Mapping[str, Any]
    ) -> tuple[UInt16[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        query = f"%(query)s::bit({self.bits})"
        # as an integer, which no index knows
        distance = f"(code <~> {query})::int" if self._pgvector else f"bit_count(code # {query})::int"
        wanted = [condition] if condition else []
        if radius < self.bits:
            wanted.append(f"{distance} <= %(radius)s")
        statement = (
            f"SELECT {distance} AS distance, number FROM {{}}"
            + (f" WHERE {' AND '.join(wanted)}" if wanted else "")
            + " ORDER BY distance, number"
            + ("" if k is None else " LIMIT %(k)s")
        )
        bits = _bit_texts(np.frombuffer(code, np.uint8)[None])[0]
        found = self._run(statement, {"query": bits, "radius": radius, "k": k, **parameters}).fetchall()
        table = np.array(found, np.int64).reshape(-1, 2)
        return table[:, 0].astype(np.uint16), table[:, 1]

    def _count(self) -> int:
        found = self._run("SELECT count(*) FROM {}").fetchone()
        return found[0] if found else 0

    def _run(self, statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Runs a statement; {} in it is the table."""
        with self._refusals():
            return self._connection.execute(statement.replace("{}", self._quoted(self.table), 1), parameters)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except psycopg.DataError:
            raise
        except psycopg.Error as error:
            raise DatabaseError(f"PostgreSQL at {self.at}: {_first_line(error)}") from error

    def close(self) -> None:
        """Closes the connection."""
        if hasattr(self, "_connection"):
            self._connection.close()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _bit_texts(codes: UInt8[np.ndarray, "n bytes"]) -> list[str]:
    """'0101...' of each code, bit 0 first."""
    signs = np.unpackbits(codes, axis=1) + ord("0")
    return signs.view(f"S{signs.shape[1]}").ravel().astype(str).tolist()

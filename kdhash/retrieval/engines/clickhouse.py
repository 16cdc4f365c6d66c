"""Exact search in ClickHouse: a folder opened inside this process (chdb), a server, or a cluster; the same SQL for all.

Codes of 64 bits are UInt64 (bit 0 is the most significant), others FixedString. One process at a time opens a folder, and a
process has one folder open at a time. A server was run against only through its HTTP protocol with chdb behind it, a cluster not
at all: see docs/scale.md for its DDL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import clickhouse_connect
import numpy as np
from clickhouse_connect.driver.exceptions import ClickHouseError
from jaxtyping import Int64, UInt8, UInt16

from kdhash.retrieval.engines.tables import Column, DatabaseError, TableEngine, sql_type

SCHEMES = {"clickhouse": "http", "http": "http", "clickhouses": "https", "https": "https"}
PASSWORD = "CLICKHOUSE_PASSWORD"
TYPES = {
    "string|binary|null": "String",
    "bool": "Bool",
    **{f"{sign}int{bits}": f"{sign.upper()}Int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "halffloat|float": "Float32",
    "double": "Float64",
    "date32.*": "Date32",
    "timestamp.*": "DateTime64(6)",
}


class ClickHouseEngine(TableEngine):
    """at: a folder, or http(s)://user@host:port/database; the password in the variable CLICKHOUSE_PASSWORD, or in the URL."""

    name = "clickhouse"

    def _plain_address(self, at: str) -> str:
        parts = urlsplit(at)
        if parts.scheme not in SCHEMES:
            return os.path.abspath(at)
        user = parts.username + "@" if parts.username else ""
        return urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2], query=""))

    def _connect(self, at: str) -> None:
        parts = urlsplit(at)
        self._client: Any = None
        try:
            if parts.scheme in SCHEMES:
                self._client = clickhouse_connect.get_client(
                    host=parts.hostname,
                    port=parts.port,
                    username=unquote(parts.username or "default"),
                    password=unquote(parts.password or os.environ.get(PASSWORD, "")),
                    database=unquote(parts.path.strip("/")) or "default",
                    interface=SCHEMES[parts.scheme],
                    autogenerate_session_id=False,  # or only one thread could search at a time
                )
            else:
                self._client = clickhouse_connect.get_client(interface="chdb", path=str(_folder(Path(at))))
        except ClickHouseError as error:
            raise DatabaseError(_explained(self.at, str(error))) from None
        except ImportError:
            raise ImportError("a folder of ClickHouse needs chdb: pip install 'kdhash[clickhouse]'") from None

    def _quoted(self, identifier: str) -> str:
        return f"`{identifier}`"

    def _comment(self) -> tuple[bool, str]:
        sql = "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = {t:String}"
        comments = self._ask(sql, {"t": self.table})["comment"].to_pylist()
        return bool(comments), comments[0] if comments else ""

    def _create(self, columns: list[Column], comment: str) -> None:
        code = "UInt64" if self.bits == 64 else f"FixedString({self.bits // 8})"
        kinds = [f"`{c.identifier}` {_type(c)}" for c in columns]
        # codes do not compress
        fields = ", ".join(["number Int64", f"code {code} CODEC(NONE)", *kinds])
        literal = comment.replace("\\", "\\\\").replace("'", "\\'")
        self._command(
            f"CREATE TABLE `{self.table}` ({fields}) ENGINE = MergeTree ORDER BY number COMMENT '{literal}'"
        )

    def _numbers_between(self, first: int, last: int) -> Int64[np.ndarray, " m"]:
        sql = f"SELECT number FROM `{self.table}` WHERE number BETWEEN {{first:Int64}} AND {{last:Int64}}"
        return self._ask(sql, {"first": first, "last": last})["number"].to_numpy()

    def _insert(
        self, numbers: Int64[np.ndarray, " n"], codes: UInt8[np.ndarray, "n bytes"], columns: Any
    ) -> None:
        import pyarrow as pa

        if self.bits == 64:
            packed = pa.array(codes.view(">u8").ravel().astype(np.uint64))
        else:
            kind = pa.binary(self.bits // 8)
            packed = pa.FixedSizeBinaryArray.from_buffers(
                kind, len(codes), [None, pa.py_buffer(codes.tobytes())]
            )
        table = pa.table({"number": numbers, "code": packed})
        for name in [] if columns is None else columns.column_names:
            table = table.append_column(name, columns[name])
        with self._refusals():
            self._client.insert_arrow(self.table, table)

    def _delete(self, numbers: list[int]) -> int:
        condition = f"FROM `{self.table}` WHERE number IN {{numbers:Array(Int64)}}"
        there = self._ask(f"SELECT count() AS n {condition}", {"numbers": numbers})["n"][0].as_py()
        if there:
            self._command(f"DELETE {condition}", {"numbers": numbers})
        return there

    def _select(
        self, code: bytes, k: int | None, radius: int, condition: str, parameters: Mapping[str, Any]
    ) -> tuple[UInt16[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        value: int | str
        if self.bits == 64:
            query, value = "{query:UInt64}", int.from_bytes(code)
        else:
            query, value = f"toFixedString(unhex({{query:String}}), {len(code)})", code.hex()
        wanted = [condition] if condition else []
        if radius < self.bits:
            wanted.append("distance <= {radius:UInt16}")
        sql = (
            f"SELECT toUInt16(bitHammingDistance(code, {query})) AS distance, number FROM `{self.table}`"
            + (f" WHERE {' AND '.join(wanted)}" if wanted else "")
            + " ORDER BY distance, number"
            + ("" if k is None else " LIMIT {k:UInt64}")
        )
        found = self._ask(sql, {"query": value, "radius": radius, "k": k or 0, **parameters})
        return found["distance"].to_numpy(), found["number"].to_numpy()

    def _count(self) -> int:
        return self._ask(f"SELECT count() AS n FROM `{self.table}`", {})["n"][0].as_py()

    def _ask(self, sql: str, parameters: Mapping[str, Any]) -> Any:
        with self._refusals():
            return self._client.query_arrow(sql, parameters=dict(parameters))

    def _command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        with self._refusals():
            self._client.command(sql, parameters=dict(parameters or {}))

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except ClickHouseError as error:
            raise DatabaseError(f"ClickHouse at {self.at}: {str(error).strip().splitlines()[0]}") from error

    def close(self) -> None:
        """Closes the connection; a folder is free for others when no engine of this process has it open."""
        if self._client is not None:
            self._client.close()


def _folder(path: Path) -> Path:
    if path.exists() and (not path.is_dir() or any(path.iterdir())) and not (path / "metadata").is_dir():
        raise ValueError(f"{path} is no folder of ClickHouse, and not empty; choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _type(column: Column) -> str:
    kind = sql_type(column, TYPES, "Array(Nullable({}))")
    return kind if kind.startswith("Array") else f"Nullable({kind})"


def _explained(at: str, message: str) -> str:
    if "EmbeddedServer already initialized" in message:
        return f"{at}: this process has another ClickHouse folder open, and can have one at a time; close the engine of that one"
    if "EmbeddedServer" in message:
        return f"{at} is open in another process: ClickHouse lets one at a time into a folder. Close it there, or run a server"
    return f"ClickHouse at {at} does not answer: {message.strip().splitlines()[0]}"

"""Manifests of pictures or texts, with any columns: JSON lines, CSV, Parquet, as Arrow tables."""

import csv
import json
from pathlib import Path
from typing import Any

MANIFESTS = (".jsonl", ".ndjson", ".csv", ".parquet")
LISTS = ("captions", "texts", "labels", "tags")  # in CSV: a JSON list, or texts divided by ';'


def read_manifest_table(path: Path) -> Any:
    """A manifest's rows as a pyarrow.Table. Rows whose cells are all empty are not there.

    CSV has a header; columns of whole numbers, numbers, true and false become such; captions, texts, labels and tags become
    lists (a JSON list, or, but for captions and texts, names divided by ';'). Raises ValueError naming the file, and the
    line where it is known.
    """
    import pyarrow as pa

    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            table = parquet.read_table(path)
        elif path.suffix.lower() == ".csv":
            table = _read_csv(path)
        else:
            table = _read_json(path)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a manifest: {error}") from None
    names = table.column_names
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: column {twice!r} is there twice")
    if not table.num_rows:
        raise ValueError(f"{path} has no rows")
    return table.cast(pa.schema([(field.name, _plain(field.type)) for field in table.schema]))


def _plain(kind: Any) -> Any:
    """Texts in one form, whoever wrote the Parquet file."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _read_json(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    try:
        return arrow_json.read_json(path)
    except pa.ArrowInvalid as error:
        # its messages count rows within blocks: find the line
        kinds: dict[str, tuple[str, int]] = {}
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as reason:
                    raise ValueError(f"{path} line {number} is no JSON: {reason}") from None
                if not isinstance(record, dict):
                    raise ValueError(f"{path} line {number} is no JSON object: {line[:60].strip()}") from None
                for name, value in record.items():
                    kind = _json_kind(value)
                    first, where = kinds.setdefault(name, (kind, number)) if kind else ("", 0)
                    if first != kind:
                        raise ValueError(
                            f"{path} line {number}: {name!r} is {kind}, and {first} in line {where}; give one kind in all lines"
                        ) from None
        raise ValueError(f"{path} cannot be read: {error}") from None


def _json_kind(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _read_csv(path: Path) -> Any:
    import pyarrow as pa

    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, None)
            if not header:
                raise ValueError(f"{path} is empty; its first line has the names of the columns")
            columns: list[list[Any]] = [[] for _ in header]
            for cells in reader:
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path} line {reader.line_num}: {len(cells)} fields, the header has {len(header)}"
                    )
                for column, cell in zip(columns, cells, strict=True):
                    column.append(cell.strip())
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num}: {error}") from None
    names = [name.strip() for name in header]
    arrays = [_csv_column(name, column) for name, column in zip(names, columns, strict=True)]
    return pa.Table.from_arrays(arrays, names=names)


def _csv_column(name: str, cells: list[str]) -> Any:
    import pyarrow as pa

    if name in LISTS:
        return pa.array(
            [_csv_list(cell, name in ("labels", "tags")) for cell in cells], pa.list_(pa.string())
        )
    if name in ("image", "id", "text", "caption", "label"):
        return pa.array([cell or None for cell in cells], pa.string())
    for kind, convert in ((pa.int64(), _whole), (pa.float64(), float), (pa.bool_(), _truth)):
        try:
            return pa.array([convert(cell) if cell else None for cell in cells], kind)
        except (ValueError, KeyError, OverflowError):
            continue
    return pa.array([cell or None for cell in cells], pa.string())


def _whole(cell: str) -> int:
    if str(int(cell)) != cell:  # 007 and 1_000 are names
        raise ValueError(cell)
    return int(cell)


def _truth(cell: str) -> bool:
    return {"true": True, "false": False}[cell.lower()]


def _csv_list(cell: str, divided: bool) -> list[str] | None:
    if cell.startswith("["):
        try:
            values = json.loads(cell)
        except ValueError:
            values = None  # a text may well begin with a bracket
        if isinstance(values, list):
            return [str(value) for value in values]
    parts = cell.split(";") if divided else [cell]
    return [part.strip() for part in parts if part.strip()] or None

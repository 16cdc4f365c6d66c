"""Texts that can be encoded: captions of a manifest or a TFDS folder, or the lines of a text file; an item a text."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdhash.export.encode_sources import Source, with_ids
from kdhash.export.manifests import MANIFESTS, read_manifest_table

TEXT_COLUMNS = ("captions", "texts", "caption", "text")  # the first that is there
READ_ROWS = 2048


def open_texts(path: str | Path, *, splits: Sequence[str] = ()) -> Source:
    """The texts of a manifest (column captions, texts, caption or text), of a TFDS folder, or of a .txt file, a line each.

    An item a text: id '<row id>#<i>', column `text`, and the row's other columns. Blank texts are passed over. A manifest's
    row without 'id' and 'image', and a line of a file, are numbered from 1. Raises FileNotFoundError, and ValueError where
    there is no text.
    """
    given = Path(path)
    absolute = Path(os.path.abspath(given))
    if given.is_dir():
        return _tfds_texts(absolute, splits)
    if not given.is_file():
        raise FileNotFoundError(
            f"no file {given}; give a manifest ({', '.join(MANIFESTS)}), a .txt file or a TFDS folder"
        )
    if splits:
        raise ValueError(f"--split is for TFDS folders; {given} has no splits")
    if given.suffix.lower() == ".txt":
        return _lines(absolute)
    if given.suffix.lower() not in MANIFESTS:
        raise ValueError(
            f"{given} ends in {given.suffix!r}; texts come from {', '.join(MANIFESTS)} and .txt files"
        )
    table = read_manifest_table(absolute)
    otherwise = "image"
    if "id" not in table.column_names and "image" not in table.column_names:
        otherwise = "row"
        table = table.append_column("row", _numbers(table.num_rows))
    table, notes = with_ids(table, absolute, otherwise)
    return _source(absolute, table.drop_columns(["row"]) if otherwise == "row" else table, notes)


def _lines(path: Path) -> Source:
    import pyarrow as pa

    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not written in UTF-8: {error}") from None
    table = pa.table(
        {"id": _numbers(len(lines)), "text": pa.array([line.strip() for line in lines], pa.string())}
    )
    return _source(path, table, [])


def _tfds_texts(folder: Path, splits: Sequence[str]) -> Source:
    import pyarrow as pa

    from kdhash.export.tfds_records import find_tfds, open_tfds

    version = find_tfds(folder)
    if version is None:
        raise ValueError(
            f"{folder} is no TFDS folder; texts come from {', '.join(MANIFESTS)}, .txt files and TFDS folders"
        )
    pictures = open_tfds(version, splits)
    parts = []
    for start in range(0, len(pictures), READ_ROWS):
        _, table = pictures.read(np.arange(start, min(start + READ_ROWS, len(pictures))))
        parts.append(table)
    return _source(version, pa.concat_tables(parts), list(pictures.notes))


def _source(path: Path, table: Any, notes: list[str]) -> Source:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = next((name for name in TEXT_COLUMNS if name in table.column_names), None)
    if column is None:
        raise ValueError(
            f"{path} has no texts: no column {', '.join(TEXT_COLUMNS)}; it has {', '.join(table.column_names)}"
        )
    texts = table[column].combine_chunks()
    if pa.types.is_string(texts.type):
        rows, inside = np.arange(len(texts)), np.zeros(len(texts), np.int64)
    elif pa.types.is_list(texts.type) and pa.types.is_string(texts.type.value_type):
        rows = pc.list_parent_indices(texts).to_numpy().astype(np.int64)
        texts = pc.list_flatten(texts)
        firsts = np.searchsorted(rows, rows)  # rows ascend
        inside = np.arange(len(rows)) - firsts
    else:
        raise ValueError(f"{path}: column {column!r} holds {texts.type}; give a text or a list of texts")
    texts = pc.utf8_trim_whitespace(texts)
    kept = np.flatnonzero(
        pc.fill_null(pc.greater(pc.utf8_length(texts), 0), False).to_numpy(zero_copy_only=False)
    )
    if not len(kept):
        raise ValueError(f"{path}: all texts in {column!r} are blank")
    others = [name for name in table.column_names if name not in (column, "id", "text")]
    if "text" in table.column_names and column != "text":
        notes = [*notes, f"column 'text' is left out: texts are those of {column!r}"]
    listing = table.select(["id", *others]).take(pa.array(rows[kept]))
    numbers = pa.array(inside[kept]).cast(pa.string())
    ids = pc.binary_join_element_wise(listing["id"], numbers, "#")
    listing = listing.set_column(0, "id", ids).add_column(1, "text", texts.take(pa.array(kept)))
    return Source("texts", path, listing, ("text", *others), texts=True, notes=tuple(notes))


def _numbers(count: int) -> Any:
    import pyarrow as pa

    return pa.array([str(number) for number in range(1, count + 1)], pa.string())

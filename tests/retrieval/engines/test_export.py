"""kdhash index export: an index into a table, and the table brought up to date."""

import json

import numpy as np
import pyarrow as pa
import pytest

from kdhash.__main__ import main
from kdhash.retrieval.engines import connect_engine, export
from kdhash.retrieval.filters import parse_filter
from kdhash.retrieval.index import open_index
from kdhash.retrieval.items import write_items
from kdhash.retrieval.write_index import add_items, build_index, delete_items, merge_segments

CODES = np.random.default_rng(0).integers(0, 256, (60, 8), np.uint8)


def codes_folder(tmp_path, rows, **columns):
    ids = [f"{row}.jpg" for row in rows]
    return write_items(
        tmp_path / f"codes{rows[0]}", CODES[rows], pa.table({"id": ids, **columns}), model="m1"
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Three segments with other columns each, blocks of 16 items."""
    monkeypatch.setattr(export, "BLOCK", 16)
    first = codes_folder(tmp_path, range(40), label=["dog", "cat"] * 20, tags=[["snow"], None] * 20)
    second = codes_folder(tmp_path, range(40, 50), label=["cow"] * 10, width=range(10))
    build_index([first, second], tmp_path / "photos.index")
    delete_items(tmp_path / "photos.index", ["3.jpg", "41.jpg"])
    return open_index(tmp_path / "photos.index")


@pytest.fixture(params=["clickhouse", "postgres"])
def database(request):
    """(engine, where)"""
    at = request.getfixturevalue(
        {"clickhouse": "clickhouse_folder", "postgres": "postgres_url"}[request.param]
    )
    return request.param, str(at)


def run(capsys, database, index, table, *more):
    engine, at = database
    arguments = ["index", "export", str(index.path), "--engine", engine, "--to", at, "--table", table]
    status = main([*arguments, *more])
    return status, *capsys.readouterr()


def assert_same(database, table, index, text=None):
    """The table answers what the index does."""
    engine = connect_engine(*database, table)
    try:
        where = None if text is None else parse_filter(text)
        found, expected = (side.search(CODES[:8], k=99, where=where) for side in (engine, index))
        for name in found._fields:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    finally:
        engine.close()


def test_export_and_update(database, index, tmp_path, capsys):
    status, out, err = run(capsys, database, index, "photos", "--json")
    assert status == 0, err
    assert json.loads(out)["added"] == json.loads(out)["count"] == 48
    assert_same(database, "photos", index)
    for text in ('label = "cow" and width > 4', 'tags has "snow"', "width != 3", 'id like "4*"'):
        assert_same(database, "photos", index, text)

    delete_items(index.path, ["0.jpg", "49.jpg"])
    add_items(index.path, codes_folder(tmp_path, range(50, 60), label=["owl"] * 10))
    merge_segments(index.path)
    index = index.refresh()
    status, out, err = run(capsys, database, index, "photos", "--update")
    assert status == 0, err
    assert out.startswith("photos: 10 items added, 2 deleted, 56 in the table; ")
    assert_same(database, "photos", index)
    assert_same(database, "photos", index, 'label in ("owl", "dog")')
    status, out, _ = run(capsys, database, index, "photos", "--update")
    assert out.startswith("photos: 0 items added, 0 deleted, 56 in the table; ")


def test_some_columns(database, index, capsys):
    assert run(capsys, database, index, "few_columns", "--columns", "label")[0] == 0
    engine = connect_engine(*database, "few_columns")
    assert engine.columns == ["id", "label"]
    engine.close()
    assert run(capsys, database, index, "few_columns", "--update")[0] == 0


def test_refusals(database, index, tmp_path, capsys):
    assert run(capsys, database, index, "refused")[0] == 0
    other = write_items(tmp_path / "other", CODES, pa.table({"id": list(map(str, range(60)))}), model="m2")
    build_index([other], tmp_path / "other.index")
    narrow = write_items(
        tmp_path / "narrow", CODES[:, :4], pa.table({"id": list(map(str, range(60)))}), model="m1"
    )
    build_index([narrow], tmp_path / "narrow.index")
    for source, more, message in (
        (index, [], "the table 'refused' is there already"),
        (index, ["--columns", "lable"], "is there already"),
        (
            index,
            ["--update", "--columns", "label"],
            "--columns: the table of an earlier export has its columns",
        ),
        (
            open_index(tmp_path / "other.index"),
            ["--update"],
            "are of the model m2, those of the table 'refused' of m1",
        ),
        (
            open_index(tmp_path / "narrow.index"),
            ["--update"],
            "has codes of 32 bits, the table 'refused' of 64",
        ),
    ):
        status, out, err = run(capsys, database, source, "refused", *more)
        assert (status, out) == (2, "")
        assert err.startswith("kdhash: ")
        assert message in err
        assert err.count("\n") == 1
    status, _, err = run(capsys, database, index, "not_made", "--columns", "lable")
    assert (status, err) == (
        2,
        f"kdhash: no column 'lable' in {index.path}; its columns are id, label, tags, width\n",
    )
    assert run(capsys, database, index, "no_table", "--update")[2].startswith(
        "kdhash: there is no table 'no_table'"
    )


def test_an_engine_whose_package_is_missing(index, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    monkeypatch.delitem(__import__("sys").modules, "kdhash.retrieval.engines.postgres", raising=False)
    status, _, err = run(capsys, ("postgres", "postgresql://nowhere"), index, "t")
    assert (status, err) == (
        2,
        "kdhash: the engine 'postgres' needs psycopg: pip install 'kdhash[postgres]'\n",
    )

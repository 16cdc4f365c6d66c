import numpy as np
import pyarrow as pa
import pytest

from kdhash.retrieval.engines import connect_engine, make_engine, open_engine
from kdhash.retrieval.engines.tables import DatabaseError
from kdhash.retrieval.filters import parse_filter
from kdhash.retrieval.nearest import nearest

module = pytest.importorskip(
    "kdhash.retrieval.engines.postgres", reason="psycopg is not installed: pip install 'kdhash[postgres]'"
)
ONE_BIT = np.packbits(np.eye(64, dtype=bool)[:3], axis=1)  # bit 0, 1, 2


def test_bit_0_is_the_first(postgres):
    engine = postgres(16)
    engine.add([7, 8], ONE_BIT[:2, :2])
    stored = engine._run("SELECT code::text FROM {} ORDER BY number").fetchall()
    assert stored == [("1" + "0" * 15,), ("01" + "0" * 14,)]


def test_an_approximate_index_of_the_table_is_not_used(postgres):
    codes = np.random.default_rng(0).integers(0, 256, (3000, 8), np.uint8)
    engine = postgres(64)
    engine.add(np.arange(3000), codes)
    engine._run("CREATE INDEX ON {} USING hnsw (code bit_hamming_ops) WITH (m = 2, ef_construction = 4)")
    engine._connection.execute("SET hnsw.ef_search = 10")
    engine._connection.execute("SET enable_seqscan = off")
    near = "SELECT number FROM {} ORDER BY code <~> %(q)s::bit(64) LIMIT 50"
    plain = engine._run(near, {"q": "0" * 64}).fetchall()
    assert len(plain) < 50  # what plain SQL would be answered
    queries = np.random.default_rng(1).integers(0, 256, (4, 8), np.uint8)
    np.testing.assert_array_equal(engine.search(queries, 50).numbers, nearest(queries, [codes], 50).numbers)


def test_metadata_columns_keep_their_names_where_these_are_plain(postgres):
    engine = postgres(64)
    hostile = 'x"); DROP TABLE t; --%s'
    engine.add([1, 2], ONE_BIT[:2], pa.table({"label": ["a", "b"], hostile: [1, 2], "Code": [3, 4]}))
    names = engine._connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position",
        [engine.table],
    ).fetchall()
    assert [name for (name,) in names] == ["number", "code", "label", "column_1", "column_2"]
    opened = connect_engine("postgres", engine.at, engine.table)
    assert opened.columns == ["label", hostile, "Code"]
    assert opened.search(ONE_BIT[:1], where=parse_filter("Code = 4")).numbers.tolist() == [[2]]
    opened.close()


def test_dates_times_and_large_numbers_are_stored(postgres):
    engine = postgres(64)
    columns = pa.table(
        {
            "day": pa.array([10, None], pa.date32()),
            "at": pa.array([10**15, None], pa.timestamp("us")),
            "at_utc": pa.array([10**15, None], pa.timestamp("us", "UTC")),
            "big": pa.array([2**64 - 1, 1], pa.uint64()),
            "raw": pa.array([b"\x00\xff", None], pa.binary()),
            "nothing": pa.nulls(2),
        }
    )
    engine.add([1, 2], ONE_BIT[:2], columns)
    assert engine.search(ONE_BIT[:1], where=parse_filter("big > 5")).numbers.tolist() == [[1]]
    with pytest.raises(ValueError, match="columns: 'where' is struct"):
        postgres(64).add([1], ONE_BIT[:1], pa.table({"where": [{"x": 1}]}))


def test_a_value_that_postgresql_cannot_hold_adds_nothing(postgres):
    engine = postgres(64)
    engine.add([1], ONE_BIT[:1], pa.table({"label": ["a"]}))
    with pytest.raises(ValueError, match="PostgreSQL refuses a value: .*NUL"):
        engine.add([2, 3], ONE_BIT[:2], pa.table({"label": ["b", "c\0d"]}))
    assert engine.count() == 1


def test_a_table_that_is_there_or_is_not(postgres):
    engine = postgres(64)
    engine.add([1], ONE_BIT[:1])
    with pytest.raises(ValueError, match=f"the table '{engine.table}' is there already"):
        make_engine("postgres", 64, at=engine.at, table=engine.table)
    with pytest.raises(ValueError, match="there is no table 'nowhere' in"):
        connect_engine("postgres", engine.at, "nowhere")
    engine._connection.execute("CREATE TABLE other (x int)")
    with pytest.raises(ValueError, match="the table 'other' in .* is none of kdhash's"):
        connect_engine("postgres", engine.at, "other")
    engine._run("DROP TABLE {}")
    with pytest.raises(DatabaseError, match=f'PostgreSQL at .*: relation "{engine.table}" does not exist'):
        engine.count()


def test_passwords_are_not_written_down(postgres_url, tmp_path):
    separator = "&" if "?" in postgres_url else "?"
    engine = make_engine(
        "postgres", 64, at=f"{postgres_url}{separator}password=secret", table="without_password"
    )
    engine.add([1], ONE_BIT[:1])
    engine.save(tmp_path / "saved")
    engine.close()
    assert "secret" not in (tmp_path / "saved" / "manifest.json").read_text()
    opened = open_engine(tmp_path / "saved")
    assert opened.count() == 1
    opened.close()


def test_servers_that_do_not_answer_or_are_too_old(postgres_url, monkeypatch):
    with pytest.raises(DatabaseError, match="PostgreSQL at .*127.0.0.1.* does not answer") as caught:
        make_engine("postgres", 64, at="postgresql://me:secret@127.0.0.1:1/db", table="t")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="at: no address of PostgreSQL"):
        make_engine("postgres", 64, at="nonsense=1", table="t")
    monkeypatch.setattr(module, "OLDEST", 990_000)
    with pytest.raises(ValueError, match="is too old: kdhash needs version 14 or newer"):
        make_engine("postgres", 64, at=postgres_url, table="t")

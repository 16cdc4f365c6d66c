import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyarrow as pa
import pytest

from kdhash.retrieval.engines import connect_engine, make_engine, open_engine
from kdhash.retrieval.engines.tables import DatabaseError
from kdhash.retrieval.filters import parse_filter

pytest.importorskip(
    "clickhouse_connect", reason="clickhouse-connect is not installed: pip install 'kdhash[clickhouse]'"
)

ONE_BIT = np.packbits(np.eye(64, dtype=bool)[:3], axis=1)  # bit 0, 1, 2


@pytest.mark.parametrize(
    ("bits", "kind", "texts"),
    [
        (64, "UInt64", ["1" + "0" * 63, "01" + "0" * 62]),
        (16, "FixedString(2)", ["1" + "0" * 15, "01" + "0" * 14]),
    ],
)
def test_bit_0_is_the_most_significant(clickhouse, bits, kind, texts):
    engine = clickhouse(bits)
    engine.add([7, 8], ONE_BIT[:2, : bits // 8])
    stored = engine._ask(
        f"SELECT toTypeName(code) AS t, bin(code) AS b FROM {engine.table} ORDER BY number", {}
    )
    assert set(stored["t"].to_pylist()) == {kind}
    assert stored["b"].to_pylist() == texts


def test_metadata_columns_keep_their_names_where_these_are_plain(clickhouse):
    engine = clickhouse(64)
    hostile = "x`) ENGINE = Memory; DROP TABLE t; --"
    engine.add(
        [1, 2], ONE_BIT[:2], pa.table({"label": ["a", "b"], hostile: [1, 2], "Code": [3, 4], "": ["", "c"]})
    )
    names = engine._ask(f"SELECT name FROM system.columns WHERE table = '{engine.table}'", {})[
        "name"
    ].to_pylist()
    assert names == ["number", "code", "label", "column_1", "column_2", "column_3"]
    assert engine.columns == ["label", hostile, "Code", ""]
    engine.close()
    opened = connect_engine("clickhouse", engine.at, engine.table)
    assert opened.columns == engine.columns
    assert opened.search(ONE_BIT[:1], where=parse_filter("Code = 4")).numbers.tolist() == [[2]]
    opened.close()


def test_a_missing_list_and_nan_are_no_values(clickhouse):
    engine = clickhouse(64)
    engine.add([1, 2], ONE_BIT[:2], pa.table({"tags": [None, ["a"]], "score": [float("nan"), 1.0]}))
    assert engine.search(ONE_BIT[:1], where=parse_filter('not tags has "a"')).numbers.tolist() == [[1]]
    stored = engine._ask(f"SELECT score FROM {engine.table} ORDER BY number", {})["score"].to_pylist()
    assert stored == [None, 1.0]


def test_dates_and_times_are_stored_and_structs_refused(clickhouse):
    engine = clickhouse(64)
    columns = pa.table(
        {
            "day": pa.array([10, None], pa.date32()),
            "at": pa.array([10**15, None], pa.timestamp("us")),
            "half": pa.array(np.array([1, 2], np.float16)),
            "nothing": pa.nulls(2),
        }
    )
    engine.add([1, 2], ONE_BIT[:2], columns)
    assert engine.count() == 2
    with pytest.raises(ValueError, match=r"columns: 'where' is struct<.*can be stored: leave the column out"):
        clickhouse(64).add([1], ONE_BIT[:1], pa.table({"where": [{"x": 1}]}))


def test_a_table_that_is_there_or_is_not(clickhouse):
    engine = clickhouse(64)
    engine.add([1], ONE_BIT[:1])
    with pytest.raises(ValueError, match=f"the table '{engine.table}' is there already in .*codes.chdb"):
        make_engine("clickhouse", 64, at=engine.at, table=engine.table)
    with pytest.raises(ValueError, match="there is no table 'nowhere' in"):
        connect_engine("clickhouse", engine.at, "nowhere")
    engine._command("CREATE TABLE other (x Int64) ENGINE = Memory COMMENT 'mine'")
    with pytest.raises(ValueError, match="the table 'other' in .* is none of kdhash's"):
        connect_engine("clickhouse", engine.at, "other")
    with pytest.raises(DatabaseError, match=r"ClickHouse at .*codes.chdb: .*nowhere does not exist"):
        engine._command("DROP TABLE nowhere")


@pytest.mark.parametrize("table", ["", "a b", "x; DROP TABLE y", "1a", "ä", "a" * 61])
def test_names_of_tables_that_are_refused(clickhouse_folder, table):
    with pytest.raises(ValueError, match="table: expected letters, digits and _"):
        make_engine("clickhouse", 64, at=clickhouse_folder, table=table)


def test_one_process_and_one_folder_at_a_time(clickhouse, tmp_path):
    engine = clickhouse(64)
    engine.add([1], ONE_BIT[:1])
    with pytest.raises(DatabaseError, match="this process has another ClickHouse folder open"):
        make_engine("clickhouse", 64, at=tmp_path / "other.chdb", table="t")
    program = (
        "from kdhash.retrieval.engines import connect_engine as c; import sys; c('clickhouse', *sys.argv[1:])"
    )
    second = subprocess.run(
        [sys.executable, "-c", program, engine.at, engine.table], capture_output=True, text=True
    )
    assert second.returncode != 0
    assert (
        f"{engine.at} is open in another process: ClickHouse lets one at a time into a folder"
        in second.stderr
    )


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photos.index").mkdir()
    (tmp_path / "photos.index" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="photos.index is no folder of ClickHouse, and not empty"):
        make_engine("clickhouse", 64, at=tmp_path / "photos.index", table="t")


class Server(BaseHTTPRequestHandler):
    """As much of ClickHouse's HTTP protocol as a client needs, with chdb behind it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self._body()
        assert (self.headers["Authorization"] or "").startswith("Basic ")
        query = parameters.pop("query", None)
        if query is None:
            query, body = body.decode(), b""
        named = {key[6:]: value for key, value in parameters.items() if key.startswith("param_")}
        try:
            answer = self._insert(query, body) if body else self._query(query, parameters, named)
            self._send(200, answer)
        except RuntimeError as error:
            self._send(500, str(error).encode())

    do_GET = do_POST

    def _body(self):
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):  # chunked
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _query(self, query, parameters, named):
        text, said, form = query.rpartition(" FORMAT ")
        text, form = (text, form.strip()) if said else (query, parameters.get("default_format", "TSV"))
        return bytes(self.server.session.query(text, form, params=named).bytes())

    def _insert(self, query, body):
        text, _, form = query.rpartition(" FORMAT ")
        with self.server.session.send_insert(text, form.strip()) as insert:
            insert.append(body)
            insert.finish()
        return b""

    def _send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Summary", json.dumps({}))
        if status != 200:
            self.send_header("X-ClickHouse-Exception-Code", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server_url(clickhouse_folder):
    session = pytest.importorskip("chdb.session").Session(str(clickhouse_folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.session = session
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://me:secret%2F@127.0.0.1:{server.server_port}/default"
    server.shutdown()
    thread.join()
    server.server_close()
    session.close()


def test_a_server_over_http(server_url, tmp_path, monkeypatch):
    engine = make_engine("clickhouse", 64, at=server_url, table="over_http")
    assert "secret" not in engine.at
    engine.add([3, 2**40], ONE_BIT[:2], pa.table({"label": ["it's", "b"]}))
    assert engine.search(ONE_BIT[2:], 5).numbers.tolist() == [[3, 2**40]]
    assert engine.search(ONE_BIT[:1], 5, where=parse_filter('label = "it\'s"')).numbers.tolist() == [[3]]
    assert engine.delete([3, 4]) == 1
    engine.save(tmp_path / "saved")
    engine.close()
    assert "secret" not in (tmp_path / "saved" / "manifest.json").read_text()
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "secret/")
    opened = open_engine(tmp_path / "saved")
    assert opened.count() == 1
    opened.close()


def test_a_server_that_does_not_answer():
    with pytest.raises(
        DatabaseError, match="ClickHouse at http://me@127.0.0.1:1/x does not answer"
    ) as caught:
        make_engine("clickhouse", 64, at="http://me:secret@127.0.0.1:1/x", table="t")
    assert "secret" not in str(caught.value)

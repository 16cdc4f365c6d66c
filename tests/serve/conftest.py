"""A small index of handwritten digits, and clients of an app that serves it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="pip install 'kdhash[serve]'")
from starlette.testclient import TestClient

from kdhash.retrieval.index import open_index
from kdhash.retrieval.write_index import build_index
from kdhash.serve.app import make_app
from tests.serve.stand_ins import ProjectionModel, digits, encoded, write_digits


@pytest.fixture(scope="package")
def index_folder(tmp_path_factory):
    """120 digits with labels, tags, numbers and thumbnails. Read-only: tests that write make their own."""
    folder = tmp_path_factory.mktemp("serve")
    build_index(write_digits(folder / "items"), folder / "index")
    return folder / "index"


@pytest.fixture(scope="package")
def index(index_folder):
    return open_index(index_folder)


@pytest.fixture(scope="package")
def picture():
    """The PNG file of item 7."""
    return encoded(digits(8)[0][7])


@pytest.fixture
def model():
    return ProjectionModel()


@pytest.fixture
def make_client(index):
    """make_client(model, **options of make_app) -> a client whose server lives as long as the test."""
    clients = []

    def make(model=None, served=index, raise_server_exceptions=True, **options):
        client = TestClient(
            make_app(served, model, **options), raise_server_exceptions=raise_server_exceptions
        )
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client, model):
    return make_client(model)


@pytest.fixture
def start():
    """start(*arguments of python) -> (process, its first line of output)."""
    processes = []

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()

"""The approximate engine of an index folder."""

import json

import numpy as np
import pyarrow as pa
import pytest

from kdhash.__main__ import main
from kdhash.retrieval.engines.index_ivf import FILE, StaleIvf, build_ivf, ivf_recall, search_ivf
from kdhash.retrieval.filters import parse_filter
from kdhash.retrieval.index import open_index
from kdhash.retrieval.items import write_items
from kdhash.retrieval.mapped import DamagedFile
from kdhash.retrieval.write_index import build_index, delete_items


@pytest.fixture
def index(tmp_path):
    """Two segments, some of the items deleted: 2,950 live ones in 30 clusters."""
    rng = np.random.default_rng(0)
    centres = rng.random((30, 64)) < 0.5
    codes = np.packbits(centres[rng.integers(0, 30, 3000)] ^ (rng.random((3000, 64)) < 0.05), axis=1)
    folders = []
    for number, rows in enumerate((slice(0, 1800), slice(1800, 3000))):
        ids = [f"{row}.jpg" for row in range(3000)[rows]]
        table = pa.table({"id": ids, "part": np.arange(3000)[rows] % 3})
        folders.append(write_items(tmp_path / f"codes{number}", codes[rows], table))
    build_index(folders, tmp_path / "photos.index")
    delete_items(tmp_path / "photos.index", [f"{row}.jpg" for row in range(0, 3000, 60)])
    return open_index(tmp_path / "photos.index")


def test_build_and_search(index):
    report = build_ivf(index, lists=32)
    assert report.recall >= 0.99
    assert (report.lists, report.k) == (32, 100)
    assert 1 <= report.probes < 32
    queries = index.codes_of([1, 61, 2999])
    found = index.search(queries, k=5, engine="ivf")
    assert found.distances[:, 0].tolist() == [0, 0, 0]
    assert not (found.numbers % 60 == 0).any()  # deleted
    near = index.search(queries, k=None, radius=9, engine="ivf")
    assert (near.distances[near.numbers >= 0] <= 9).all()
    exact = index.search(queries, k=None, radius=9)
    assert 0.9 * exact.counts.sum() <= near.counts.sum() <= exact.counts.sum()
    where = parse_filter("part = 1")
    for name, answer in zip(
        found._fields, index.search(queries, k=9, where=where, engine="ivf"), strict=True
    ):
        np.testing.assert_array_equal(answer, getattr(index.search(queries, k=9, where=where), name))


def test_its_recall_against_the_exact_engine(index):
    assert ivf_recall(index) is None
    report = build_ivf(index, lists=32)
    assert ivf_recall(index) == report.recall
    assert 0 < ivf_recall(index, sample=40, k=7) <= 1


def test_another_generation_is_not_used(index, tmp_path):
    build_ivf(index, lists=8)
    delete_items(index.path, ["1.jpg"])
    index = index.refresh()
    with pytest.raises(
        StaleIvf, match=r"ivf.faiss is of generation \d+, the index of \d+: .*kdhash index ivf"
    ):
        search_ivf(index, index.codes_of([2]), 3, None, None)
    assert ivf_recall(index) is None
    build_ivf(index, lists=8)
    assert index.search(index.codes_of([2]), k=1, engine="ivf").numbers.tolist() == [[2]]


def test_what_is_missing_or_damaged(index):
    with pytest.raises(FileNotFoundError, match="has no approximate index; kdhash index ivf"):
        index.search(index.codes_of([2]), engine="ivf")
    build_ivf(index, lists=8)
    (index.path / FILE).write_bytes((index.path / FILE).read_bytes()[:-9])
    with pytest.raises(DamagedFile, match="ivf.faiss is truncated, or no approximate index"):
        index.search(index.codes_of([2]), engine="ivf")


def test_nothing_is_left_behind_by_a_build_that_fails(index, monkeypatch):
    build_ivf(index, lists=8)
    before = (index.path / FILE).read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        build_ivf(index, lists=16)
    assert (index.path / FILE).read_bytes() == before
    assert list(index.path.glob("*.tmp")) == []


def test_refusals(index, tmp_path):
    with pytest.raises(ValueError, match="recall: expected a share from 0 to 1, got 2"):
        build_ivf(index, recall=2)
    delete_items(index.path, [f"{row}.jpg" for row in range(3000) if row % 60])
    with pytest.raises(ValueError, match="has no items to make an approximate index of"):
        build_ivf(index.refresh())


def test_the_command(index, capsys):
    assert main(["index", "ivf", str(index.path), "--recall", "0.9", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["recall"] >= 0.9
    assert main(["index", "verify", str(index.path)]) == 0
    assert f"recall@100 {said['recall']:.4f}" in capsys.readouterr().out

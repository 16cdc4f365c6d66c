import os
import re

import numpy as np
import pytest

from kdhash.retrieval.columns import common_type
from kdhash.retrieval.engines.index_ivf import build_ivf
from kdhash.retrieval.index import open_index, read_index_manifest
from kdhash.retrieval.mapped import file_facts, write_manifest
from kdhash.retrieval.verify_index import verify_index
from kdhash.retrieval.write_index import add_items, build_index, delete_items
from tests.retrieval.index_data import codes_of_ids, damages, make_codes

IDS = [f"img {i}" for i in range(40)]


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def path(tmp_path):
    make_codes(tmp_path / "a", IDS[:25], thumbs=True)
    make_codes(tmp_path / "b", IDS[25:])
    build_index(tmp_path / "a", tmp_path / "index")
    add_items(tmp_path / "index", tmp_path / "b")
    delete_items(tmp_path / "index", IDS[:2])
    return tmp_path / "index"


def test_a_sound_index(path):
    seen = []
    found = verify_index(path, progress=lambda done, total: seen.append((done, total)))
    assert (found.problems, found.items, found.segments, found.recall) == ([], 38, 2, None)
    files = [file for segment in path.glob("segment-*") for file in segment.iterdir()]
    assert (found.files, found.bytes) == (len(files), sum(file.stat().st_size for file in files))
    assert seen[-1] == (found.bytes, found.bytes)
    assert len(seen) == len(files)


def test_every_damage_is_found_and_all_are_named(path):
    files = sorted(file for segment in path.glob("segment-*") for file in segment.iterdir())
    assert len(files) > 10
    contents = {file: file.read_bytes() for file in files}
    for file, content in contents.items():
        for changed in damages(content):
            file.write_bytes(changed)
            [problem] = verify_index(path).problems
            assert str(file) in problem
        file.unlink()
        assert verify_index(path).problems == [f"{file} is missing"]
        file.write_bytes(content)
    for file, content in contents.items():
        file.write_bytes(content[:-1])
    problems = verify_index(path).problems
    assert [str(file) in problem for file, problem in zip(sorted(files), sorted(problems), strict=True)] == [
        True
    ] * len(files)


def change_array(path, name, change):
    """Changes an array of the first segment and its sums in the manifest: damage that no checksum shows."""
    manifest = read_index_manifest(path)
    facts = manifest["segments"][0]
    array = np.load(path / facts["name"] / name)
    np.save(path / facts["name"] / name, change(array))
    entry = facts["deleted"] if name.startswith("deleted") else facts["files"][name]
    entry.update(file_facts(path / facts["name"] / name))
    write_manifest(path, manifest)


def second_id_for_first(path):
    """The second segment becomes a copy of the first: all its ids are there twice."""
    manifest = read_index_manifest(path)
    first, second = manifest["segments"]
    manifest["segments"][1] = {**first, "deleted": None, "first_number": second["first_number"]}
    manifest["count"] = 23 + 25
    manifest["next_number"] = 50
    write_manifest(path, manifest)


def change_manifest(**changes):
    def change(path):
        write_manifest(path, read_index_manifest(path) | changes)

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda path: change_array(path, "keys.npy", lambda keys: keys[::-1]),
            "the key of id 'img 0' is not that of keys.npy",
        ),
        (
            lambda path: change_array(path, "codes.npy", lambda codes: codes[:, :4]),
            r"codes.npy: uint8 \(25, 4\), expected uint8 \(25, 8\)",
        ),
        (
            lambda path: change_array(path, "deleted-000003.npy", lambda bits: bits | 1),
            "5 rows are deleted, the manifest says 2",
        ),
        (
            lambda path: change_array(path, "thumbs.npy", lambda offsets: offsets[::-1].copy()),
            "thumbs.npy does not fit thumbs.bin",
        ),
        (second_id_for_first, "the id 'img 2' is there twice"),
        (change_manifest(count=39), "count is 39, its segments have 38 live items"),
        (change_manifest(next_number=39), "numbers of segments overlap, or next_number was given before"),
        (
            change_manifest(columns={"label": "int64", "tags": "list<string>"}),
            "column 'label' is string, the manifest says int64",
        ),
    ],
)
def test_what_checksums_do_not_show(path, change, problem):
    change(path)
    problems = verify_index(path).problems
    assert re.search(problem, "\n".join(problems)), problems


def test_recall_of_the_approximate_engine(path):
    assert build_ivf(open_index(path), recall=1.0).recall == 1
    assert verify_index(path).recall == 1
    content = (path / "ivf.faiss").read_bytes()
    (path / "ivf.faiss").write_bytes(content[: len(content) // 2])
    [problem] = verify_index(path).problems
    assert "ivf.faiss" in problem
    (path / "ivf.faiss").write_bytes(content)
    delete_items(path, IDS[5:6])
    assert verify_index(path).recall is None  # it is of another generation


def test_approximate_search(path):
    index = open_index(path)
    build_ivf(index, recall=1.0)
    query = codes_of_ids(IDS[5:8])
    for found, exact in zip(index.search(query, k=5, engine="ivf"), index.search(query, k=5), strict=True):
        assert found.shape == exact.shape
    assert (index.search(query, k=5, engine="ivf").distances == index.search(query, k=5).distances).all()


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [
        ("string", "string", "string"),
        ("null", "string", "string"),
        ("int64", "null", "int64"),
        ("list<null>", "list<string>", "list<string>"),
        ("list<string>", "null", "list<string>"),
        ("list<list<null>>", "list<list<int64>>", "list<list<int64>>"),
        ("int32", "int64", None),
        ("list<string>", "string", None),
        ("list<string>", "list<int64>", None),
    ],
)
def test_common_types(first, second, common):
    assert common_type(first, second) == common_type(second, first) == common

import hashlib
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest

from kdhash.retrieval.filters import FilterError, parse_filter
from kdhash.retrieval.index import UnknownItem, open_index
from kdhash.retrieval.mapped import DamagedFile
from kdhash.retrieval.write_index import add_items, build_index, delete_items, merge_segments
from tests.retrieval.index_data import as_pairs, brute_force, codes_of_ids, damages, facts_of_ids, make_codes


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


IDS = [f"2019/img {i}.jpg" for i in range(90)]
GONE = IDS[3:20:4] + IDS[60:63]
LIVE = [i for i, name in enumerate(IDS) if name not in GONE]


@pytest.fixture(scope="module", params=["three segments", "merged"])
def index(request, tmp_path_factory):
    """An index of IDS without GONE; segments with thumbnails and without, and with other columns."""
    folder = tmp_path_factory.mktemp("index")
    for i, (columns, thumbs) in enumerate([(None, True), (["width", "label"], False), (["tags"], True)]):
        make_codes(
            folder / str(i),
            IDS[30 * i : 30 * i + 30],
            columns=columns,
            thumbs=thumbs,
            searched_by=[f"student {i}"],
        )
    build_index([folder / "0", folder / "1"], folder / "index")
    add_items(folder / "index", folder / "2")
    delete_items(folder / "index", GONE)
    if request.param == "merged":
        merge_segments(folder / "index")
    return open_index(folder / "index")


def expected_row(number):
    row = facts_of_ids([IDS[number]]).to_pylist()[0]
    there = (("id", "label", "width", "tags"), ("id", "width", "label"), ("id", "tags"))[number // 30]
    return {"number": number} | {
        name: row[name] if name in there else None for name in ("id", "label", "width", "tags")
    }


@pytest.mark.parametrize("engine_filter", [None, 'label = "dog" or tags has "t1"'])
@pytest.mark.parametrize(
    ("k", "radius"), [(1, None), (7, None), (1000, None), (5, 6), (None, 6), (None, 0), (None, 64)]
)
def test_search_is_brute_force(index, k, radius, engine_filter):
    query = np.concatenate([codes_of_ids([IDS[0], IDS[3], "new"]), np.full((1, 8), 255, np.uint8)])
    keep = [
        engine_filter is None or expected_row(n)["label"] == "dog" or "t1" in (expected_row(n)["tags"] or [])
        for n in LIVE
    ]
    where = None if engine_filter is None else parse_filter(engine_filter)
    found = index.search(query, k=k, radius=radius, where=where)
    codes = codes_of_ids(IDS)[LIVE]
    assert as_pairs(found) == [brute_force(codes, LIVE, one, k, radius, keep) for one in query]
    assert (found.distances.dtype, found.numbers.dtype, found.counts.dtype) == (np.uint16, np.int64, np.int64)
    assert found.numbers.shape[1] == found.counts.max()


def test_no_queries(index):
    assert index.search(np.empty((0, 8), np.uint8)).numbers.shape == (0, 0)


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (np.zeros((1, 4), np.uint8), {}, "codes: 32 bits, .*index has codes of 64"),
        (np.zeros((1, 8)), {}, "codes: expected packed codes"),
        (None, {"k": 0}, "k: expected 1 or more"),
        (None, {"k": None}, "k and radius are both None"),
        (None, {"radius": -1}, "radius: expected 0 bits or more"),
        (None, {"engine": "magic"}, "engine: 'magic' is unknown; an index has exact and ivf"),
        (None, {"where": parse_filter("colour = 1")}, "character 1: no column 'colour'"),
        (None, {"where": parse_filter("label = 1")}, "column 'label' is string"),
    ],
)
def test_search_errors(index, codes, options, message):
    with pytest.raises(ValueError, match=message):
        index.search(codes_of_ids(["a"]) if codes is None else codes, **options)


def test_facts(index):
    assert (len(index), index.bits, index.model) == (len(LIVE), 64, "m")
    assert index.searched_by == ("m", "student 0", "student 1", "student 2")
    assert index.columns == {"label": "string", "width": "int64", "tags": "list<string>"}


def test_rows(index):
    numbers = np.random.default_rng(0).choice(LIVE, 200)
    assert index.rows(numbers).to_pylist() == [expected_row(number) for number in numbers.tolist()]
    chosen = index.rows(numbers, ["tags", "number", "id"])
    assert chosen.column_names == ["number", "tags", "id"]
    assert chosen["tags"].to_pylist() == [expected_row(number)["tags"] for number in numbers.tolist()]
    # a column that none of these rows has
    assert index.rows([LIVE[-1]], ["label"]).to_pylist() == [{"number": LIVE[-1], "label": None}]
    assert index.rows([LIVE[5], LIVE[0]], []).to_pylist() == [{"number": LIVE[5]}, {"number": LIVE[0]}]
    assert index.rows([]).column_names == ["number", "id", "label", "width", "tags"]
    with pytest.raises(ValueError, match="no column 'colour' in .*; its columns are id, label, width, tags"):
        index.rows([0], ["colour"])


def test_ids_numbers_codes_and_thumbnails(index):
    np.testing.assert_array_equal(index.codes_of(LIVE[::-1]), codes_of_ids(IDS)[LIVE][::-1])
    for number in LIVE:
        assert index.number_of(IDS[number]) == number
        inside, part = number % 30, number // 30
        picture = f"jpeg of {IDS[number]}".encode() if inside % 3 and part != 1 else None
        assert index.thumbnail(number) == picture
    assert set(index.find([*IDS, "no such"])) == {IDS[number] for number in LIVE}


@pytest.mark.parametrize("number", [-1, 3, 61, 90, 2**40])
def test_what_is_not_there(index, number):
    for ask in (index.rows, index.codes_of):
        with pytest.raises(UnknownItem, match=f"no item with number {number} in "):
            ask([0, number])
    with pytest.raises(UnknownItem, match=f"no item with number {number}"):
        index.thumbnail(number)
    name = IDS[number] if 0 <= number < 90 else 'say "hi"'
    with pytest.raises(UnknownItem, match=f"no item '{name}' in "):
        index.number_of(name)


def test_segments(index):
    numbers = np.concatenate([segment.numbers for segment in index.segments])
    live = np.concatenate(
        [np.ones(s.count, bool) if s.deleted is None else ~s.deleted for s in index.segments]
    )
    assert numbers[live].tolist() == LIVE
    assert sum(segment.live for segment in index.segments) == len(index)
    assert [name for s in index.segments for name in s.items["id"].to_pylist()] == [IDS[n] for n in numbers]


def test_many_threads_read_one_index(index):
    query = codes_of_ids(IDS)[LIVE]
    fresh, wrong = open_index(index.path), []

    def read(thread):
        for number, code in list(zip(LIVE, query, strict=True))[thread::8]:
            pairs = as_pairs(
                fresh.search(
                    code[None], k=3, where=parse_filter('label = "dog" or width >= 0 or tags has "all"')
                )
            )
            if pairs[0][0][1] not in LIVE or fresh.rows([number], ["id"])["id"].to_pylist() != [IDS[number]]:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("bits", [8, 24, 128])
def test_other_numbers_of_bits(tmp_path, bits):
    make_codes(tmp_path / "codes", IDS, bits=bits)
    index = build_index(tmp_path / "codes", tmp_path / "index")
    codes = codes_of_ids(IDS, bits)
    assert as_pairs(index.search(codes[:4], k=9)) == [
        brute_force(codes, range(90), one, 9) for one in codes[:4]
    ]


def test_refresh_sees_what_was_written_and_checks_only_that(tmp_path, monkeypatch):
    make_codes(tmp_path / "a", IDS[:30])
    make_codes(tmp_path / "b", IDS[30:50])
    index = build_index(tmp_path / "a", tmp_path / "index")
    index.search(codes_of_ids(["x"]))
    assert index.refresh() is index
    add_items(index.path, tmp_path / "b")
    delete_items(index.path, IDS[:1])
    checked, sha256 = [], hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data: checked.append(len(data)) or sha256(data))
    newer = index.refresh()
    assert (len(index), len(newer), newer.generation) == (30, 49, 3)
    assert as_pairs(index.search(codes_of_ids(IDS[:1]), k=1)) == [[(0, 0)]]
    assert as_pairs(newer.search(codes_of_ids(IDS[49:50]), k=1)) == [[(0, 49)]]
    sizes = [(newer.path / segment.name / "codes.npy").stat().st_size for segment in newer.segments]
    assert sizes[0] not in checked
    assert sizes[1] in checked


def test_refresh_sees_an_index_that_was_built_anew(tmp_path):
    make_codes(tmp_path / "a", IDS[:3])
    make_codes(tmp_path / "b", IDS[5:7])
    index = build_index(tmp_path / "a", tmp_path / "index")
    shutil.rmtree(index.path)
    assert build_index(tmp_path / "b", tmp_path / "index").generation == index.generation
    assert index.refresh().rows([0, 1])["id"].to_pylist() == IDS[5:7]


def test_a_reader_keeps_what_a_merge_removes(tmp_path):
    make_codes(tmp_path / "a", IDS[:30], thumbs=True)
    build_index(tmp_path / "a", tmp_path / "index")
    delete_items(tmp_path / "index", IDS[:5])
    before = open_index(tmp_path / "index")
    merge_segments(tmp_path / "index")
    assert not before.segments[0].path.exists()
    # nothing of it had been used before
    assert as_pairs(before.search(codes_of_ids(IDS[9:10]), k=1)) == [[(0, 9)]]
    assert before.rows([9], ["id"])["id"].to_pylist() == [IDS[9]]
    assert before.thumbnail(10) == f"jpeg of {IDS[10]}".encode()
    assert before.number_of(IDS[9]) == 9


def test_opening_while_a_merge_takes_segments_away(tmp_path, monkeypatch):
    make_codes(tmp_path / "a", IDS[:30])
    build_index(tmp_path / "a", tmp_path / "index")
    delete_items(tmp_path / "index", IDS[:5])
    from kdhash.retrieval import index as index_module

    read, merged = index_module.read_index_manifest, []

    def read_then_merge(path):
        manifest = read(path)
        if not merged:
            merged.append(True)
            merge_segments(path)
        return manifest

    monkeypatch.setattr(index_module, "read_index_manifest", read_then_merge)
    assert len(open_index(tmp_path / "index")) == 25


def use(path):
    index = open_index(path)
    numbers = np.concatenate(
        [s.numbers if s.deleted is None else s.numbers[~s.deleted] for s in index.segments]
    )
    index.search(codes_of_ids(["x"]))
    index.rows(numbers)
    index.number_of(IDS[4])
    for number in numbers:
        index.thumbnail(number)


def test_every_damaged_file_is_refused_by_name(tmp_path):
    make_codes(tmp_path / "a", IDS[:30], thumbs=True)
    make_codes(tmp_path / "b", IDS[30:], thumbs=True)
    build_index(tmp_path / "a", tmp_path / "index")
    delete_items(tmp_path / "index", IDS[1:3])
    merge_segments(tmp_path / "index")
    add_items(tmp_path / "index", tmp_path / "b")
    delete_items(tmp_path / "index", IDS[5:6])
    use(tmp_path / "index")
    files = {
        str(file.relative_to(tmp_path / "index"))
        for file in (tmp_path / "index").rglob("*")
        if file.is_file()
    }
    assert {"numbers.npy", "keys.npy", "thumbs_crc32.npy"} <= {file.split("/")[-1] for file in files}
    for file in sorted(files - {"lock"}):
        path = tmp_path / "index" / file
        content = path.read_bytes()
        for changed in damages(content):
            if (
                path.parent != tmp_path / "index"
                and path.name == "manifest.json"
                and len(changed) == len(content)
            ):
                continue  # a copy that is never read; `verify` looks at it
            path.write_bytes(changed)
            with pytest.raises(DamagedFile, match=path.name):
                use(tmp_path / "index")
        path.unlink()
        with pytest.raises((DamagedFile, FileNotFoundError), match=f"{path.name}"):
            use(tmp_path / "index")
        path.write_bytes(content)
    use(tmp_path / "index")


def test_what_is_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there; kdhash index build makes"):
        open_index(tmp_path / "nowhere")
    make_codes(tmp_path / "codes", IDS[:2])
    with pytest.raises(ValueError, match="holds kdhash-codes, expected kdhash-index"):
        open_index(tmp_path / "codes")


def test_opening_and_searching_import_neither_jax_nor_numba_before_they_must(tmp_path):
    make_codes(tmp_path / "codes", IDS[:5])
    build_index(tmp_path / "codes", tmp_path / "index")
    program = (
        "import sys\n"
        "from kdhash.retrieval.index import open_index\n"
        f"index = open_index({str(tmp_path / 'index')!r})\n"
        "assert not {'jax', 'flax', 'numba', 'faiss', 'pyarrow'} & set(sys.modules), sys.modules\n"
        "index.search(index.codes_of([3]), k=2)\n"
        "assert not {'jax', 'flax', 'faiss', 'pyarrow'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_column_that_is_empty_in_one_segment(tmp_path):
    ids = IDS[:4]
    from kdhash.retrieval.items import write_items

    for name, tags in (("a", pa.array([[], []])), ("b", pa.array([["x"], None]))):
        some = ids[:2] if name == "a" else ids[2:]
        write_items(
            tmp_path / name, codes_of_ids(some), pa.table({"id": some, "tags": tags, "note": pa.nulls(2)})
        )
    index = build_index([tmp_path / "a", tmp_path / "b"], tmp_path / "index")
    assert index.columns == {"tags": "list<string>", "note": "null"}
    for opened in (index, merge_segments(index.path)):
        assert opened.rows(range(4), ["tags"])["tags"].to_pylist() == [[], [], ["x"], None]
        assert (
            as_pairs(opened.search(codes_of_ids(ids[:1]), where=parse_filter('tags has "x" and note != 1')))[
                0
            ][0][1]
            == 2
        )
        with pytest.raises(FilterError):
            opened.search(codes_of_ids(ids[:1]), where=parse_filter('tags = "x"'))

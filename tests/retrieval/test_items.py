import json

import numpy as np
import pyarrow as pa
import pytest

from kdhash.retrieval import items as items_module
from kdhash.retrieval.items import DuplicateIds, ItemsWriter, id_keys, open_items, write_items
from kdhash.retrieval.mapped import DamagedFile, MappedFolder
from tests.retrieval.index_data import codes_of_ids, damages, facts_of_ids, make_codes

IDS = ["a/b c.jpg", 'say "hi"', "Zürich/雪.png", "-7", "it's", "back\\slash", "tab\there"]


def test_what_is_written_is_read(tmp_path):
    codes, table = codes_of_ids(IDS), facts_of_ids(IDS)
    thumbs = [b"", b"one", b"", b"three", b"4", b"5", b""]
    source = {"kind": "folder", "path": "photos"}
    write_items(
        tmp_path / "codes",
        codes,
        table,
        thumbs=thumbs,
        model="m",
        searched_by=["s", "m"],
        preprocessing="p",
        source=source,
    )
    items = open_items(tmp_path / "codes")
    assert (len(items), items.count, items.bits) == (7, 7, 64)
    np.testing.assert_array_equal(items.codes, codes)
    np.testing.assert_array_equal(np.load(tmp_path / "codes" / "codes.npy"), codes)
    assert items.table.equals(table)
    assert [items.thumbnail(row) or b"" for row in range(7)] == thumbs
    assert items.thumbnail(0) is None
    np.testing.assert_array_equal(items.keys, id_keys(IDS))
    manifest = items.manifest
    assert (manifest["model"], manifest["searched_by"], manifest["preprocessing"]) == ("m", ["m", "s"], "p")
    assert (manifest["bit_order"], manifest["source"]) == ("msb-first", source)
    assert manifest["columns"] == {"label": "string", "width": "int64", "tags": "list<string>"}
    assert not items.codes.flags.writeable


def test_keys_are_blake2b_of_the_id():
    # the value of `b2sum -l 64` of "dog", read as a little-endian number
    assert id_keys(["dog"])[0] == int.from_bytes(bytes.fromhex("3984c7c1d25e9c9f"), "little")


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 0, 4], [0], []])
def test_blocks_of_any_size_give_the_same_folder(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(items_module, "BATCH", 2)
    ids = IDS[: sum(sizes)]
    with ItemsWriter(tmp_path / "codes", bits=64) as writer:
        for first, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            some = ids[first : first + size]
            writer.add(codes_of_ids(some), facts_of_ids(some), [b"x"] * size)
    items = open_items(tmp_path / "codes")
    assert items.ids_at(np.arange(len(ids))) == ids
    np.testing.assert_array_equal(items.codes, codes_of_ids(ids))
    assert [items.thumbnail(row) for row in range(len(ids))] == [b"x"] * len(ids)
    rows = np.random.default_rng(0).integers(0, max(len(ids), 1), 20 if ids else 0)
    if ids:
        assert (
            items.take(rows, ["tags", "id"]).to_pydict()
            == facts_of_ids(ids).select(["tags", "id"]).take(rows).to_pydict()
        )


def test_column_types_are_made_plain(tmp_path):
    table = pa.table(
        {
            "label": pa.array(["a", None]).dictionary_encode(),
            "id": pa.array(["x", "y"], pa.large_string()),
            "tags": pa.array([["a"], None], pa.large_list(pa.large_string())),
        }
    )
    write_items(tmp_path / "codes", np.zeros((2, 8), np.uint8), table)
    items = open_items(tmp_path / "codes")
    assert items.manifest["columns"] == {"label": "string", "tags": "list<string>"}
    assert items.table.to_pydict() == {"id": ["x", "y"], "label": ["a", None], "tags": [["a"], None]}


def write_two_blocks(folder, codes=None, table=None, thumbs=None):
    ids = ["p", "q"]
    with ItemsWriter(folder, bits=64) as writer:
        writer.add(codes_of_ids(["a"]), facts_of_ids(["a"]))
        writer.add(
            codes_of_ids(ids) if codes is None else codes,
            facts_of_ids(ids) if table is None else table,
            thumbs,
        )


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"codes": np.zeros((2, 4), np.uint8)}, "codes: 32 bits, this folder has 64"),
        ({"codes": np.zeros((2, 64))}, "codes: expected packed codes"),
        ({"codes": np.zeros((3, 8), np.uint8)}, "table: 2 rows for 3 codes"),
        (
            {"table": facts_of_ids(["p", "q"]).drop(["id"])},
            "no column 'id'; its columns are label, width, tags",
        ),
        ({"table": pa.table({"id": [1, 2]})}, "'id' must hold strings, it holds int64"),
        ({"table": pa.table({"id": ["p", None]})}, "an item has no id"),
        ({"table": pa.table({"id": ["p", "q"], "number": [1, 2]})}, "column 'number' is reserved"),
        (
            {"table": facts_of_ids(["p", "q"]).drop(["tags"])},
            "'tags' was list<string> in the first block, and is missing",
        ),
        (
            {"table": facts_of_ids(["p", "q"]).select(["id", "tags", "width", "label"])},
            "columns are id, tags, width, label",
        ),
        ({"thumbs": [b"x", b"y"]}, "thumbs: give them with every block or with none"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, block, message):
    with pytest.raises(ValueError, match=message):
        write_two_blocks(tmp_path / "codes", **block)
    assert list(tmp_path.iterdir()) == []


def test_ids_given_twice_are_refused_and_listed(tmp_path):
    ids = ["a", "b", "a", "c", "b", "a"]
    with pytest.raises(DuplicateIds, match="ids that are there twice: 'a', 'b'") as refusal:
        make_codes(tmp_path / "codes", ids)
    assert refusal.value.ids == ["a", "b"]
    assert list(tmp_path.iterdir()) == []


def test_equal_keys_are_not_equal_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(items_module, "id_keys", lambda ids: np.zeros(len(ids), np.uint64))
    make_codes(tmp_path / "codes", ["a", "b"])
    with pytest.raises(DuplicateIds, match="'b'"):
        make_codes(tmp_path / "more", ["a", "b", "b"])


def test_a_folder_is_not_overwritten(tmp_path):
    make_codes(tmp_path / "codes", ["a"])
    with pytest.raises(FileExistsError, match="already there; remove it first"):
        make_codes(tmp_path / "codes", ["b"])
    with pytest.raises(ValueError, match="bits: expected a multiple of 8, got 12"):
        ItemsWriter(tmp_path / "new", bits=12)


def test_every_file_is_checked(tmp_path):
    folder = make_codes(tmp_path / "codes", IDS, thumbs=True)

    def use():
        items = open_items(folder)
        return items.codes, items.keys, items.table, [items.thumbnail(row) for row in range(7)]

    use()
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for changed in damages(content):
            path.write_bytes(changed)
            with pytest.raises(DamagedFile, match=path.name):
                use()
        path.unlink()
        with pytest.raises(
            (DamagedFile, FileNotFoundError), match="missing|has no manifest.json; kdhash encode makes"
        ):
            use()
        path.write_bytes(content)
    use()


def test_contents_need_not_be_checked(tmp_path):
    folder = make_codes(tmp_path / "codes", IDS)
    content = (folder / "codes.npy").read_bytes()
    (folder / "codes.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert open_items(folder, check=False).codes[-1, -1] == codes_of_ids(IDS)[-1, -1] ^ 1


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"format": "kdhash-index"}, "holds kdhash-index, expected kdhash-codes; kdhash encode makes one"),
        (
            {"format": "kdhash-codes", "version": 2},
            "version 2, this kdhash reads version 1; install a newer kdhash",
        ),
        ({"format": "kdhash-codes", "version": 1}, "its field 'count' is missing"),
        ([], "holds something else"),
    ],
)
def test_other_folders_are_refused(tmp_path, manifest, message):
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        open_items(tmp_path)


def test_a_manifest_leads_out_of_no_folder(tmp_path):
    folder = make_codes(tmp_path / "codes", IDS)
    with pytest.raises(DamagedFile, match="no plain file name"):
        MappedFolder(folder, {"../codes/codes.npy": {"bytes": 1, "sha256": ""}})

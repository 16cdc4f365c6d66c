import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdhash.retrieval import import_codes as module
from kdhash.retrieval.import_codes import import_codes
from kdhash.retrieval.items import open_items

IDS = ["a b", 'c"d', "é", "4", "5", "6", "x\ty"]


def signs(n=7, bits=64):
    return np.where(np.random.default_rng(n).random((n, bits)) < 0.5, -1, 1)


@pytest.mark.parametrize("batch", [2, 100])
@pytest.mark.parametrize(
    ("stored", "options"),
    [
        (lambda s: np.packbits(s > 0, axis=1), {}),
        (lambda s: np.packbits(s > 0, axis=1, bitorder="little"), {"bit_order": "lsb-first"}),
        (lambda s: s.astype(np.int8), {}),
        (lambda s: s.astype(np.float32) * 0.3, {}),
        (lambda s: np.asfortranarray(s.astype(np.float64)), {}),
        (lambda s: s > 0, {}),
    ],
    ids=["packed", "lsb-first", "int8", "real", "fortran order", "bool"],
)
def test_codes_of_any_form(tmp_path, monkeypatch, batch, stored, options):
    monkeypatch.setattr(module, "BATCH", batch)
    np.save(tmp_path / "codes.npy", stored(signs()))
    import_codes(tmp_path / "codes.npy", tmp_path / "codes", **options)
    items = open_items(tmp_path / "codes")
    np.testing.assert_array_equal(items.codes, np.packbits(signs() > 0, axis=1))
    assert items.ids_at(np.arange(7)) == ["0", "1", "2", "3", "4", "5", "6"]
    assert (items.manifest["model"], items.manifest["bit_order"]) == ("", "msb-first")
    assert items.manifest["source"] == {"kind": "codes", "path": str(tmp_path / "codes.npy")}


@pytest.mark.parametrize("batch", [2, 3, 100])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_ids_and_metadata(tmp_path, monkeypatch, batch, newline):
    monkeypatch.setattr(module, "BATCH", batch)
    np.save(tmp_path / "codes.npy", signs())
    facts = pa.table({"label": list("abcdefg"), "n": range(7)})
    pq.write_table(facts, tmp_path / "facts.parquet", row_group_size=3)
    (tmp_path / "ids.txt").write_text(newline.join(IDS), encoding="utf-8", newline="")
    import_codes(
        tmp_path / "codes.npy", tmp_path / "1", ids=tmp_path / "ids.txt", metadata=tmp_path / "facts.parquet"
    )
    expected = {"id": IDS, "label": list("abcdefg"), "n": list(range(7))}
    assert open_items(tmp_path / "1").table.to_pydict() == expected
    pq.write_table(facts.append_column("id", [IDS]), tmp_path / "with_ids.parquet")
    import_codes(tmp_path / "codes.npy", tmp_path / "2", metadata=tmp_path / "with_ids.parquet")
    assert open_items(tmp_path / "2").table.to_pydict() == expected
    import_codes(tmp_path / "codes.npy", tmp_path / "3", metadata=tmp_path / "facts.parquet")
    assert open_items(tmp_path / "3").table["id"].to_pylist() == list("0123456")


@pytest.mark.parametrize(
    ("codes", "ids", "metadata", "message"),
    [
        (signs()[0], None, None, r"expected codes \[n, bits/8\] or \[n, bits\], got \(64,\)"),
        (signs(bits=12), None, None, "multiple of 8, got 12"),
        (
            signs().astype(np.uint64),
            None,
            None,
            "codes.npy: .*expected real values or -1/.1, got dtype uint64",
        ),
        (np.full((3, 64), np.nan), None, None, "codes.npy: .*NaN has no sign"),
        ((signs() + 1) // 2, None, None, r"no value is below 0, .* save codes.astype\(bool\)"),
        (
            ((signs() + 1) // 2).astype(np.uint8),
            None,
            None,
            "uint8 of 0 and 1 only; packed codes are np.packbits",
        ),
        (signs(), ["a", "b"], None, "ids.txt: 2 rows for 7 codes"),
        (signs(), [*IDS, "more"], None, "ids.txt: more than the 7 rows"),
        (signs(), ["a", "", "c"], None, "ids.txt, line 2: an empty id"),
        (signs(), [*IDS[:6], "a b"], None, "ids that are there twice: 'a b'"),
        (signs(), None, {"n": range(6)}, "facts.parquet: 6 rows for 7 codes"),
        (signs(), None, {"n": range(8)}, "facts.parquet: more than the 7 rows"),
        (signs(), None, {"id": range(7)}, "column 'id' must hold strings, it holds int64"),
        (signs(), IDS, {"id": IDS}, "facts.parquet has a column 'id', and .*ids.txt gives ids too"),
        (signs(), None, {"distance": range(7)}, "column 'distance' is reserved"),
    ],
)
def test_errors_name_the_file_and_leave_nothing(tmp_path, codes, ids, metadata, message):
    np.save(tmp_path / "codes.npy", codes)
    options = {}
    if ids is not None:
        options["ids"] = tmp_path / "ids.txt"
        options["ids"].write_text("\n".join(ids) + "\n")
    if metadata is not None:
        options["metadata"] = tmp_path / "facts.parquet"
        pq.write_table(
            pa.table({name: list(values) for name, values in metadata.items()}), options["metadata"]
        )
    with pytest.raises(ValueError, match=message):
        import_codes(tmp_path / "codes.npy", tmp_path / "out", **options)
    assert {path.name for path in tmp_path.iterdir()} <= {"codes.npy", "ids.txt", "facts.parquet"}


def test_files_of_another_kind(tmp_path):
    (tmp_path / "codes.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="codes.npy: no array as np.save writes it"):
        import_codes(tmp_path / "codes.npy", tmp_path / "out")
    np.save(tmp_path / "codes.npy", np.array([{"a": 1}]))
    with pytest.raises(ValueError, match="codes.npy: no array as np.save writes it"):
        import_codes(tmp_path / "codes.npy", tmp_path / "out")
    np.save(tmp_path / "codes.npy", signs())
    (tmp_path / "facts.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="facts.parquet is no Parquet file"):
        import_codes(tmp_path / "codes.npy", tmp_path / "out", metadata=tmp_path / "facts.parquet")
    with pytest.raises(ValueError, match="bit_order: expected msb-first or lsb-first, got 'big'"):
        import_codes(tmp_path / "codes.npy", tmp_path / "out", bit_order="big")

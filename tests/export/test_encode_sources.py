"""What can be encoded: manifests, TFDS sets, texts, names that are no text."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kdhash.data.write_tfds import encode_png, write_dataset
from kdhash.export.encode import encode
from kdhash.export.encode_rows import Settings
from kdhash.export.encode_sources import open_source
from kdhash.export.encode_texts import open_texts
from kdhash.retrieval.items import open_items
from tests.export.stand_in import StandIn, write_picture, write_pictures

SETTINGS = Settings(batch_size=4, workers=2)


@pytest.fixture
def model():
    return StandIn()


@pytest.fixture
def photos(tmp_path):
    write_pictures(tmp_path / "photos", 4)
    return tmp_path / "photos"


def run(model, source, out):
    model.batches.clear()
    return encode(model, open_source(source), out, SETTINGS)


def counts(report):
    return report.encoded, report.recognized, report.unchanged, report.removed


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_manifest_brings_metadata(model, photos, tmp_path, ending):
    rows = [
        {"image": "photos/dogs/000.png", "label": "dog", "tags": ["a", "b"], "stars": 3, "width": 1},
        {"image": "photos/cats/001.jpg", "label": "cat", "tags": ["b"], "stars": None, "width": 2},
        {"image": "photos/cats/nowhere.jpg", "label": "cat", "tags": None, "stars": 5, "width": 3},
    ]
    manifest = tmp_path / f"all.{ending}"

    def write():
        if ending == "jsonl":
            manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif ending == "csv":
            lines = [
                ",".join(
                    [
                        row["image"],
                        row["label"],
                        ";".join(row["tags"] or []),
                        str(row["stars"] or ""),
                        str(row["width"]),
                    ]
                )
                for row in rows
            ]
            manifest.write_text("image,label,tags,stars,width\n" + "\n".join(lines) + "\n")
        else:
            parquet.write_table(pa.Table.from_pylist(rows), manifest)

    write()
    source = open_source(manifest)
    assert source.notes == ("column 'width' is stored as 'source_width': the name has a meaning of its own",)
    report = run(model, manifest, tmp_path / "codes")
    assert report.skipped == (("photos/cats/nowhere.jpg", "there is no such file"),)
    table = open_items(tmp_path / "codes").table
    assert table.column_names[:5] == ["id", "label", "tags", "stars", "source_width"]
    assert table.select(["id", "label", "tags", "stars", "source_width", "width"]).to_pylist() == [
        {
            "id": "photos/dogs/000.png",
            "label": "dog",
            "tags": ["a", "b"],
            "stars": 3,
            "source_width": 1,
            "width": 20,
        },
        {
            "id": "photos/cats/001.jpg",
            "label": "cat",
            "tags": ["b"],
            "stars": None,
            "source_width": 2,
            "width": 80,
        },
    ]
    rows[1]["label"] = "kitten"
    write()
    assert counts(run(model, manifest, tmp_path / "codes")) == (0, 0, 2, 0)
    assert open_items(tmp_path / "codes").table["label"].to_pylist() == ["dog", "kitten"]


def test_ids_of_a_manifest(model, photos, tmp_path):
    manifest = tmp_path / "all.jsonl"
    manifest.write_text(
        '{"image": "photos/dogs/000.png", "id": 7}\n{"image": "photos/cats/001.jpg", "id": 8}\n'
    )
    run(model, manifest, tmp_path / "codes")
    rows = open_items(tmp_path / "codes").table.select(["id", "image"]).to_pylist()
    assert rows == [{"id": "7", "image": "photos/dogs/000.png"}, {"id": "8", "image": "photos/cats/001.jpg"}]
    # the same id for another picture: never mind its size and time
    shutil.copy2(photos / "dogs/000.png", photos / "twin.png")
    write_picture(photos / "dogs/000.png", 5)
    manifest.write_text(manifest.read_text().replace("dogs/000", "twin"))
    assert counts(run(model, manifest, tmp_path / "codes")) == (0, 1, 1, 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"image": "x.png"}\n{"image": \n', r"a\.jsonl line 2 is no JSON"),
        (
            "a.jsonl",
            '{"image": "x.png", "n": 1}\n{"image": "y.png", "n": "b"}\n',
            "line 2: 'n' is a text, and a number in line 1",
        ),
        ("a.jsonl", '{"image": "x.png"}\n{"image": "x.png"}\n', "id 'x.png' is that of 2 rows"),
        ("a.jsonl", '{"picture": "x.png"}\n', "no column 'image'.* it has: picture"),
        ("a.csv", "image,label\nx.png\n", "line 2: 1 fields, the header has 2"),
        ("a.csv", "image,label\n", "has no rows"),
        ("a.parquet", "no parquet", "cannot be read as a manifest"),
        ("a.doc", "x", "ends in '.doc'"),
    ],
)
def test_manifests_that_cannot_be_read(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / name)


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")

    def examples(first, count):
        for number in range(first, first + count):
            picture = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            captions = [f"picture {number}", f"number {number}"]
            example = {
                "id": f"n{number}",
                "image": encode_png(picture),
                "label": number % 2,
                "captions": captions,
            }
            yield f"n{number}", example | {"tags": [0, 1][: number % 3]}

    return write_dataset(
        root,
        "mine",
        "1.0.0",
        image_shape=(8, 8, 3),
        label_names={"label": ("cat", "dog")},
        splits={"train": examples(0, 6), "test": examples(6, 3)},
        about={"description": "test"},
        text_lists=("captions",),
        label_lists={"tags": ("snow", "grass")},
    )


def test_a_tfds_folder(model, tfds, tmp_path):
    report = run(model, tfds, tmp_path / "codes")
    assert counts(report) == (9, 0, 0, 0)
    table = open_items(tmp_path / "codes").table
    assert table.column_names[:6] == ["id", "split", "label", "tags", "captions", "source_id"]
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == [f"train/{n}" for n in range(6)] + [f"test/{n}" for n in range(3)]
    by_name = {row["source_id"]: row for row in rows}
    assert by_name["n5"]["captions"] == ["picture 5", "number 5"]
    assert (by_name["n5"]["label"], by_name["n5"]["tags"], by_name["n5"]["split"]) == (
        "dog",
        ["snow", "grass"],
        "train",
    )
    assert (by_name["n6"]["width"], by_name["n6"]["split"], by_name["n6"]["tags"]) == (8, "test", [])
    assert counts(run(model, tfds, tmp_path / "codes")) == (0, 0, 9, 0)
    # another state of its files: all is read, nothing is encoded
    shutil.copytree(tfds, tmp_path / "copy" / "1.0.0")
    os.utime(next((tmp_path / "copy" / "1.0.0").glob("*train*")), ns=(1, 1))
    assert counts(run(model, tmp_path / "copy", tmp_path / "codes")) == (0, 9, 0, 0)
    model.batches.clear()
    assert encode(model, open_source(tfds, splits=["test"]), tmp_path / "codes", SETTINGS).removed == 6
    with pytest.raises(ValueError, match=r"no split 'val'; it has train, test"):
        open_source(tfds, splits=["val"])


def test_texts(model, tfds, tmp_path):
    report = encode(model, open_texts(tfds, splits=["test"]), tmp_path / "codes", SETTINGS)
    assert counts(report) == (6, 0, 0, 0)
    items = open_items(tmp_path / "codes")
    rows = items.table.to_pylist()
    assert [row["id"] for row in rows] == [
        "test/0#0",
        "test/0#1",
        "test/1#0",
        "test/1#1",
        "test/2#0",
        "test/2#1",
    ]
    assert {"text", "label", "tags", "split", "source_id"} < set(rows[0])
    assert np.array_equal(items.codes, model.encode_texts([row["text"] for row in rows]))
    assert items.manifest["items"] == "texts"
    (tmp_path / "lines.txt").write_text("a dog\n\n  a cat \n")
    (tmp_path / "all.csv").write_text('id,captions\n7,"[""a dog"", "" "", ""a cat""]"\n8,a bird\n')
    for name, expected in {
        "lines.txt": {"1#0": "a dog", "3#0": "a cat"},
        "all.csv": {"7#0": "a dog", "7#2": "a cat", "8#0": "a bird"},
    }.items():
        encode(model, open_texts(tmp_path / name), tmp_path / f"{name}.codes", SETTINGS)
        found = open_items(tmp_path / f"{name}.codes").table.to_pydict()
        assert dict(zip(found["id"], found["text"], strict=True)) == expected
    (tmp_path / "lines.txt").write_text("a fish\na dog\n\n a cat \n")
    model.batches.clear()
    report = encode(model, open_texts(tmp_path / "lines.txt"), tmp_path / "lines.txt.codes", SETTINGS)
    assert counts(report) == (1, 2, 0, 1)  # the others have moved on by a line


def test_names_that_are_no_text(model, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_picture(tmp_path / "photos" / "x.png", 1)
    os.rename(tmp_path / "photos" / "x.png", tmp_path / "photos" / name)
    run(model, tmp_path / "photos", tmp_path / "codes")
    assert open_items(tmp_path / "codes").table["id"].to_pylist() == ["caf\\xe9.png"]
    assert counts(run(model, tmp_path / "photos", tmp_path / "codes")) == (0, 0, 1, 0)

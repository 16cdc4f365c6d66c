"""Manifests of pictures and texts, from file to `load_pairs`."""

import csv
import json

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from kdhash.data import load_pairs
from kdhash.data.cli import SOME_LEFT_OUT
from kdhash.data.prepare_pairs import prepare_pairs


def prepare(*arguments):
    import argparse

    from kdhash.data import cli

    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers(dest="command"))
    return cli.run(parser.parse_args(["prepare", *map(str, arguments)]))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


def write_lines(path, records):
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", "utf-8")
    return path


def records(count=6):
    return [
        {
            "image": f"{number}.png",
            "captions": [f"picture number {number}", "grey"],
            "labels": ["dark"] if number < 3 else ["light", "big"],
            "split": "query" if number == 5 else "database",
        }
        for number in range(count)
    ]


def by_id(pairs):
    return {name: row for row, name in enumerate(pairs.ids)}


def test_json_lines(tmp_path, pictures):
    manifest = write_lines(pictures / "pairs.jsonl", records())
    report = prepare_pairs(manifest, "mine", tmp_path / "data", size=16)
    assert report.counts == {"database": 5, "query": 1}
    assert report.skipped == ()
    assert report.skipped_file is None
    pairs = load_pairs("mine", tmp_path / "data")
    assert pairs.label_names == ("big", "dark", "light")
    rows = by_id(pairs)
    assert rows["5.png"] == 5
    assert pairs.texts[rows["4.png"]] == ("picture number 4", "grey")
    assert pairs.labels[rows["4.png"]].tolist() == [True, False, True]
    assert (pairs.images[np.array([rows["4.png"]])] == 160).all()
    assert pairs.images.image_shape == (16, 16, 3)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]


def test_csv_and_parquet_give_the_same(tmp_path, pictures):
    rows = [record | {"labels": ";".join(record["labels"])} for record in records()]
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row | {"captions": json.dumps(row["captions"])} for row in rows)
    parquet.write_table(pyarrow.Table.from_pylist(records()), tmp_path / "pairs.parquet")
    write_lines(tmp_path / "pairs.jsonl", rows)
    found = set()
    for kind in ("csv", "parquet", "jsonl"):
        prepare_pairs(tmp_path / f"pairs.{kind}", "mine", tmp_path / kind, images=pictures, size=8)
        found.add(load_pairs("mine", tmp_path / kind).fingerprint)
    assert len(found) == 1


def test_one_text_no_labels_no_split(tmp_path, pictures):
    rows = [{"image": f"{number}.png", "text": f"number {number}", "id": number} for number in range(6)]
    manifest = write_lines(pictures / "pairs.jsonl", rows)
    report = prepare_pairs(manifest, "mine", tmp_path / "data", size=8, query_share=0.3)
    assert report.counts == {"database": 4, "query": 2}
    pairs = load_pairs("mine", tmp_path / "data")
    assert pairs.labels is None
    assert set(pairs.ids) == set("012345")
    assert pairs.texts[by_id(pairs)["3"]] == ("number 3",)


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_queries_are_drawn_among_pictures_that_can_be_read(tmp_path, pictures, fault):
    lines = "\n".join(f"{number}.png,number {number}" for number in range(6))
    (pictures / "pairs.csv").write_text(f"image,text\n{lines}\n")

    def query(folder):
        report = prepare_pairs(pictures / "pairs.csv", "mine", folder, size=8, query_share=0.2)
        assert report.counts["query"] == 1
        pairs = load_pairs("mine", folder)
        return pairs.ids[pairs.splits["query"][0]], report

    drawn, _ = query(tmp_path / "all")
    if fault == "missing":
        (pictures / drawn).unlink()
    else:
        (pictures / drawn).write_bytes(b"?")
    other, report = query(tmp_path / "others")
    assert other != drawn
    assert report.counts == {"database": 4, "query": 1}
    assert [identity for _, identity, _ in report.skipped] == [drawn]


def test_rows_left_out(tmp_path, pictures, capsys):
    (pictures / "1.png").write_bytes(b"?")
    (pictures / "2.png").write_bytes((pictures / "2.png").read_bytes()[:60])
    (pictures / "3.png").unlink()
    rows = records()
    rows[4]["captions"] = [" ", ""]
    manifest = write_lines(tmp_path / "pairs.jsonl", rows)
    arguments = (
        "pairs",
        manifest,
        "--name",
        "mine",
        "--data-dir",
        tmp_path / "data",
        "--images",
        pictures,
        "--size",
        8,
    )
    assert prepare(*arguments) == SOME_LEFT_OUT
    out, err = capsys.readouterr()
    assert err == ""
    assert "mine: 1 database, 1 query pictures in" in out
    assert "3 labels: big, dark, light" in out
    assert "left out 4 rows, all listed in" in out
    assert "line 5, 4.png: no text" in out
    assert "line 4, 3.png: no file" in out
    listing = (tmp_path / "data/mine/skipped-1.0.0.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listing] == ["place", "line 2", "line 3", "line 4", "line 5"]
    assert sorted(load_pairs("mine", tmp_path / "data").ids) == ["0.png", "5.png"]
    assert prepare(*arguments) == 1
    assert "already exists" in capsys.readouterr().err


def test_rows_without_image_are_listed(tmp_path, pictures):
    rows = records()
    rows[0]["image"], rows[1]["image"], rows[2] = None, " ", rows[2] | {"image": None, "id": "third"}
    found = {}
    for kind in ("jsonl", "csv", "parquet"):
        if kind == "jsonl":
            manifest = write_lines(tmp_path / "pairs.jsonl", rows)
        elif kind == "parquet":
            manifest = tmp_path / "pairs.parquet"
            every = [{"id": None} | row for row in rows]
            parquet.write_table(pyarrow.Table.from_pylist(every), manifest)
        else:
            manifest = tmp_path / "pairs.csv"
            lines = [f"{row['image'] or ''},{row.get('id', '')},a text,{row['split']}" for row in rows]
            manifest.write_text("\n".join(["image,id,text,split", *lines]) + "\n")
        report = prepare_pairs(manifest, "mine", tmp_path / kind, images=pictures, size=8)
        assert report.counts == {"database": 2, "query": 1}
        found[kind] = [(identity, reason) for _, identity, reason in report.skipped]
        listing = report.skipped_file.read_text().splitlines()
        assert [line.split("\t")[-1] for line in listing] == ["reason", *["no picture"] * 3]
    assert found["jsonl"] == found["csv"] == found["parquet"]
    assert found["jsonl"] == [("", "no picture")] * 2 + [("third", "no picture")]


def test_split_without_pictures(tmp_path, pictures):
    (pictures / "5.png").unlink()
    manifest = write_lines(pictures / "pairs.jsonl", records())
    with pytest.raises(
        ValueError, match=r"no picture of the split 'query' can be read; the last: line 6, 5.png"
    ):
        prepare_pairs(manifest, "mine", tmp_path / "data", size=8)
    assert list((tmp_path / "data").iterdir()) == []


IMAGE = {"image": "0.png"}
TEXT = IMAGE | {"text": "a"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([TEXT, TEXT], r"pairs.jsonl line 2: id '0.png' is that of line 1"),
        ([TEXT, {"text": "a"}], r"line 2: no field 'image'"),
        ([IMAGE], r"line 1: no text field; give one of 'text'"),
        ([TEXT | {"caption": "b"}], r"line 1: several text fields"),
        ([TEXT | {"colour": "red"}], r"line 1: unknown field 'colour'; known: image, text"),
        ([TEXT | {"image": 3}], r"line 1: 'image' is 3"),
        ([IMAGE | {"text": 3}], r"line 1: 'text' is 3"),
        ([TEXT | {"labels": [1.5]}], r"line 1: 'labels' is \[1.5\]"),
        ([TEXT | {"id": " "}], r"line 1: 'id' is ' '"),
        ([TEXT | {"split": "All rows"}], r"line 1: 'split' is 'All rows'"),
        ([TEXT | {"split": "train"}, TEXT | {"id": "b"}], r"line 2: no 'split', which other rows have"),
        ([[1]], r"line 1 is no JSON object"),
        ([IMAGE | {"text": "a \ud800"}], r"line 1: half of a character pair"),
        ([], r"has no rows"),
        ([IMAGE | {"text": " "}], r"no pair of 'mine' can be used: 1 rows have no text or picture"),
        ([TEXT | {"image": None}], r"no pair of 'mine' can be used: 1 rows have no text or picture"),
    ],
)
def test_wrong_json_lines(tmp_path, pictures, rows, message):
    manifest = write_lines(pictures / "pairs.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        prepare_pairs(manifest, "mine", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,text,colour\n0.png,a,red\n", r"pairs.csv line 1: unknown field 'colour'"),
        ("text\na\n", r"line 1: no field 'image'"),
        ("image,text\n0.png,a,b\n", r"line 2 has more fields than the header"),
        ("", r"line 1: no field 'image'"),
    ],
)
def test_wrong_csv(tmp_path, content, message):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        prepare_pairs(tmp_path / "pairs.csv", "mine", tmp_path / "data")


def test_wrong_files(tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text('{"image": "a.png", "text": "a"}\n{oops\n')
    with pytest.raises(ValueError, match="pairs.jsonl line 2 is no JSON"):
        prepare_pairs(tmp_path / "pairs.jsonl", "mine", tmp_path / "data")
    (tmp_path / "pairs.jsonl").write_bytes(b'{"image": "a.png", "text": "\xe9"}')
    with pytest.raises(ValueError, match="pairs.jsonl is not written in UTF-8"):
        prepare_pairs(tmp_path / "pairs.jsonl", "mine", tmp_path / "data")
    (tmp_path / "pairs.parquet").write_text("?")
    with pytest.raises(ValueError, match="is no Parquet file that can be read"):
        prepare_pairs(tmp_path / "pairs.parquet", "mine", tmp_path / "data")
    (tmp_path / "pairs.xlsx").write_text("?")
    with pytest.raises(ValueError, match="manifests are .jsonl, .csv or .parquet"):
        prepare_pairs(tmp_path / "pairs.xlsx", "mine", tmp_path / "data")
    with pytest.raises(ValueError, match="name 'My set'"):
        prepare_pairs(tmp_path / "pairs.jsonl", "My set", tmp_path / "data")
    assert prepare("pairs", tmp_path / "none.jsonl", "--name", "mine", "--data-dir", tmp_path / "data") == 1
    assert capsys.readouterr().err.startswith("error: no manifest")

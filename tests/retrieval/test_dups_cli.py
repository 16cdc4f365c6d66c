import csv
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from kdhash.__main__ import main
from kdhash.retrieval.contact_sheet import CELL, Picture, draw_groups
from kdhash.retrieval.index import open_index
from kdhash.retrieval.items import write_items
from kdhash.retrieval.row_files import write_rows
from kdhash.retrieval.write_index import add_items, build_index, delete_items


def jpeg(color):
    file = io.BytesIO()
    Image.new("RGB", (64, 48), color).save(file, "JPEG")
    return file.getvalue()


def code(*ones):
    bits = np.zeros(64, bool)
    bits[list(ones)] = True
    return np.packbits(bits)


# a1, a2, a3: a chain of 2 and 3 bits; b1, b2: equal; c: alone
CODES = {
    "a1": (),
    "b1": range(20, 40),
    "a2": (0, 1),
    "c": range(40, 64),
    "b2": range(20, 40),
    "a3": (0, 1, 2, 3, 4),
}
LABELS = ["x", "x", "y", "x", "x", "x"]


def items(folder, names, labels, thumbs):
    codes = np.stack([code(*CODES[name.split()[0]]) for name in names])
    table = pa.table({"id": names, "label": labels})
    return write_items(folder, codes, table, thumbs=thumbs, model="m")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dups")
    thumbs = [jpeg("red"), jpeg("blue"), b"", jpeg("green"), jpeg("blue"), jpeg("red")]
    return build_index([items(folder / "codes", list(CODES), LABELS, thumbs)], folder / "index").path


def answer(capsys, *arguments):
    status = main(["dups", *map(str, arguments)])
    out, error = capsys.readouterr()
    return status, out, error


def document(capsys, *arguments):
    status, out, error = answer(capsys, *arguments, "--json")
    assert (status, error) == (0, "")
    return json.loads(out)


def ids(found):
    return [[item["id"] for item in group["items"]] for group in found["groups"]]


def test_groups_as_json(capsys, index):
    found = document(capsys, index)
    assert found["groups"] == [
        {
            "size": 3,
            "items": [
                {"number": 0, "id": "a1", "distance": 0},
                {"number": 2, "id": "a2", "distance": 2},
                {"number": 5, "id": "a3", "distance": 5},
            ],
        },
        {
            "size": 2,
            "items": [{"number": 1, "id": "b1", "distance": 0}, {"number": 4, "id": "b2", "distance": 0}],
        },
    ]
    assert found | {"seconds": 0, "groups": 0} == {
        "index": str(index),
        "radius": 3,
        "items": 6,
        "groups_found": 2,
        "items_in_groups": 5,
        "seconds": 0,
        "next_number": 6,
        "groups": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--radius", "0"], [["b1", "b2"]]),
        (["--radius", "2"], [["a1", "a2"], ["b1", "b2"]]),
        (["--radius", "64"], [["a1", "b1", "a2", "c", "b2", "a3"]]),
        (["--where", 'label = "x"'], [["b1", "b2"]]),
        (["--where", 'label = "z"'], []),
        (["--max-groups", "1"], [["a1", "a2", "a3"]]),
        (["--new-since", "5"], [["a2", "a3"]]),
        (["--new-since", "4"], [["b1", "b2"], ["a2", "a3"]]),
        (["--new-since", "6"], []),
    ],
)
def test_arguments(capsys, index, arguments, expected):
    assert sorted(ids(document(capsys, index, *arguments))) == sorted(expected)


def test_pairs(capsys, index, tmp_path):
    found = document(capsys, index, "--pairs")
    pairs = {(p["first_id"], p["second_id"], p["distance"]) for p in found["pairs"]}
    assert pairs == {("a1", "a2", 2), ("a2", "a3", 3), ("b1", "b2", 0)}
    assert (found["pairs_found"], found["complete"]) == (3, True)
    status, out, error = answer(
        capsys, index, "--pairs", "--max-pairs", 2, "--out", tmp_path / "p.jsonl", "--json"
    )
    assert status == 0
    assert json.loads(out)["complete"] is False
    assert "more than 2 pairs" in error
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(tuple(row[key] for key in ("first_id", "second_id", "distance")) in pairs for row in rows)
    status, out, _ = answer(capsys, index, "--pairs", "--radius", "2")
    assert status == 0
    assert "   2  a1  a2\n" in out
    assert "2 pairs within 2 bits among 6 items" in out


def test_what_people_read(capsys, index):
    status, out, _ = answer(capsys, index)
    assert status == 0
    assert "group 1: 3 items\n  bits  id\n     0  a1\n     2  a2\n     5  a3\n" in out
    assert "2 groups with 5 of 6 items, within 3 bits" in out
    assert out.endswith("next time: --new-since 6\n")
    assert "0 groups with 0 of 0 items" in answer(capsys, index, "--where", 'label = "z"')[1]


def test_out_files(capsys, index, tmp_path):
    status, out, _ = answer(capsys, index, "--out", tmp_path / "groups.csv")
    assert status == 0
    assert "group 1" not in out
    with open(tmp_path / "groups.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2] == {"group": "1", "size": "3", "number": "5", "id": "a3", "distance": "5"}
    answer(capsys, index, "--out", tmp_path / "groups.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    assert [{key: str(value) for key, value in line.items()} for line in lines] == rows
    assert "groups" not in document(capsys, index, "--out", tmp_path / "groups.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["groups.csv", "groups.jsonl"]


@pytest.mark.parametrize("name", ["sheet.png", "sheet.JPG"])
def test_sheet(capsys, index, tmp_path, name):
    assert answer(capsys, index, "--sheet", tmp_path / name)[0] == 0
    sheet = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
    red, blue = (np.abs(sheet - color).max(axis=2) < 12 for color in ((254, 0, 0), (0, 0, 254)))
    # a1 and a3 in the first group, two blue ones below; each as wide as a cell, 4 : 3
    assert np.isclose(red.sum(), 2 * CELL * CELL * 0.75, rtol=0.1)
    assert np.isclose(blue.sum(), red.sum(), rtol=0.1)
    assert np.nonzero(red)[0].max() < np.nonzero(blue)[0].min()
    assert answer(capsys, index, "--sheet", tmp_path / name, "--where", 'label = "z"')[0] == 0
    assert Image.open(tmp_path / name).height < sheet.shape[0]


def test_sheet_of_pictures_that_cannot_be_read():
    groups = [("group 1", [Picture(b"no jpeg", "a/very/long/" * 20, "0 bits"), Picture(None, "", "")])]
    assert draw_groups(groups).height > CELL
    with pytest.raises(ValueError, match="1,000 groups are too many"):
        draw_groups(groups * 1000)


def test_appended_and_deleted_items(capsys, tmp_path):
    index = build_index([items(tmp_path / "one", list(CODES), LABELS, None)], tmp_path / "index").path
    since = document(capsys, index)["next_number"]
    add_items(index, items(tmp_path / "two", ["a1 again", "c again"], ["x", "x"], None))
    found = document(capsys, index, "--new-since", since)
    assert ids(found) == [["a1", "a2", "a1 again"], ["c", "c again"]]
    delete_items(index, ["a1"])
    assert ids(document(capsys, index, "--new-since", since)) == [["a2", "a1 again"], ["c", "c again"]]
    assert len(open_index(index).segments) > 1
    assert ids(document(capsys, index)) == [["a2", "a3", "a1 again"], ["b1", "b2"], ["c", "c again"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--radius", "-1"], "radius: expected a number of bits from 0 on, got -1"),
        (["--out", "groups.txt"], "--out groups.txt: expected a name that ends in .jsonl or .csv"),
        (["--sheet", "x.gif"], "--sheet x.gif: expected a name that ends in .png or .jpg"),
        (["--pairs", "--sheet", "x.png"], "--sheet draws groups; leave --pairs out"),
        (["--max-groups", "-2"], "--max-groups: expected a number from 0 on, got -2"),
        (["--where", "lable = 'x'"], "no column 'lable'"),
        (["--out", "nowhere/at/all.csv"], "nowhere/at"),
    ],
)
def test_bad_input(capsys, index, arguments, message):
    status, out, error = answer(capsys, index, *arguments)
    assert (status, out) == (2, "")
    assert error.startswith("kdhash: ")
    assert error.count("\n") == 1
    assert message in error


def test_no_index(capsys, tmp_path):
    status, _, error = answer(capsys, tmp_path / "none")
    assert status == 2
    assert "none" in error


def test_rows_that_fail_leave_no_file(tmp_path):
    def rows():
        yield {"a": 1}
        raise RuntimeError("no more")

    (tmp_path / "old.jsonl").write_text("old")
    with pytest.raises(RuntimeError, match="no more"):
        write_rows(tmp_path / "old.jsonl", ["a"], rows())
    assert [path.name for path in tmp_path.iterdir()] == ["old.jsonl"]
    assert (tmp_path / "old.jsonl").read_text() == "old"


def test_help_imports_nothing_heavy():
    program = (
        "import sys, kdhash.retrieval.dups_cli\n"
        "heavy = {'jax', 'flax', 'numba', 'faiss', 'pyarrow', 'PIL', 'tensorflow_datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

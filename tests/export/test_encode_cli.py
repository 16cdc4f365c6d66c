"""The command `encode`: what it prints, its exit status, and one line for each mistake."""

import json

import pytest

from kdhash.__main__ import main
from kdhash.export import model as models
from kdhash.retrieval.items import open_items
from kdhash.retrieval.write_index import build_index
from tests.export.stand_in import StandIn, write_pictures


@pytest.fixture
def loads(monkeypatch):
    """Model folders 'student', 'other' and 'pictures-only'; the list of those that were loaded."""
    there = {"student": StandIn(), "other": StandIn(seed=1), "pictures-only": StandIn(kind="image")}
    loaded = []

    def read(folder):
        if folder not in there:
            raise FileNotFoundError(f"{folder} is no model folder")
        return there[folder]

    def load(folder, *, engine="jax", batch_size=256):
        loaded.append((folder, engine, batch_size))
        return there[folder]

    monkeypatch.setattr(models, "read_model", read)
    monkeypatch.setattr(models, "load_model", load)
    return loaded


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos", 6)
    return tmp_path / "photos"


def test_from_a_folder_to_an_index_and_on(loads, photos, capsys):
    (photos / "broken.png").write_bytes(b"no picture")
    arguments = [
        "encode",
        "student",
        "photos",
        "--out",
        "photos.codes",
        "--engine",
        "onnx",
        "--batch-size",
        "4",
    ]
    assert main(arguments) == 3
    told = capsys.readouterr()
    assert told.out.startswith("photos.codes: 6 pictures, 32 bits; 6 encoded; ")
    assert "left out 1 picture, listed in photos.codes/skipped.tsv:\n  broken.png: no picture" in told.out
    assert told.out.endswith("next: kdhash index build photos.codes photos.index\n")
    assert "encoding: 7/7 pictures" in told.err
    assert loads == [("student", "onnx", 4)]
    (photos / "broken.png").unlink()
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("photos.codes: 6 pictures, 32 bits; 6 unchanged; ")
    assert len(loads) == 1  # a model that has nothing to encode is not loaded
    build_index("photos.codes", "photos.index")
    write_pictures(photos, 1, first=30)
    (photos / "dogs/000.png").unlink()
    assert main(["encode", "student", "photos", "--update", "photos.index"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("photos.index: 7 items, 32 bits; 1 encoded, 5 unchanged; ")
    assert "still in the index, and not in photos: 1 item; --delete takes them out" in told
    assert main(["encode", "student", "photos", "--update", "photos.index", "--delete", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["folder"], facts["count"], facts["removed"], facts["items"]) == (
        "photos.index",
        6,
        1,
        "pictures",
    )


def test_json_is_one_document(loads, photos, capsys):
    (photos / "broken.png").write_bytes(b"no picture")
    assert main(["encode", "student", "photos", "--out", "codes", "--json"]) == 3
    facts = json.loads(capsys.readouterr().out)
    assert (facts["count"], facts["encoded"], facts["bits"], facts["model"]) == (6, 6, 32, StandIn().hash)
    assert facts["skipped"][0]["id"] == "broken.png"
    assert facts["skipped_file"] == "codes/skipped.tsv"


def test_texts(loads, photos, capsys):
    (photos / "lines.txt").write_text("a dog\na cat\n")
    assert main(["encode", "student", "photos/lines.txt", "--texts", "--out", "codes"]) == 0
    assert capsys.readouterr().out.startswith("codes: 2 texts, 32 bits; 2 encoded; ")
    assert open_items("codes").table.to_pylist() == [
        {"id": "1#0", "text": "a dog"},
        {"id": "2#0", "text": "a cat"},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "photos", "--out", "x"], "nowhere is no model folder"),
        (
            ["student", "nowhere", "--out", "x"],
            "no folder or file nowhere; give a folder of pictures, a picture, a manifest",
        ),
        (
            ["student", "photos", "--out", "photos"],
            "photos is there, and no folder of codes; give --out another name",
        ),
        (
            ["student", "photos", "--out", "photos.index"],
            "photos.index holds kdhash-index, expected kdhash-codes",
        ),
        (["student", "photos", "--out", "x", "--delete"], "--delete goes with --update INDEX"),
        (["student", "photos", "--update", "nowhere"], "nowhere"),
        (
            ["student", "photos", "--out", "x", "--split", "train"],
            "--split is for TFDS folders; photos has no splits",
        ),
        (["student", "photos", "--out", "x", "--batch-size", "0"], "--batch-size is 0; give at least 1"),
        (["student", "photos", "--out", "x", "--workers", "0"], "--workers is 0; give at least 1"),
        (["student", "photos", "--out", "x", "--thumbnails", "-1"], "--thumbnails is -1"),
        (["pictures-only", "photos", "--out", "x", "--texts"], "pictures-only hashes pictures only"),
        (["student", "photos", "--out", "x", "--texts"], "photos is no TFDS folder; texts come from"),
        (
            ["other", "photos", "--out", "photos.codes"],
            f"model {StandIn().hash}, and this is model {StandIn(seed=1).hash}",
        ),
        (
            ["other", "photos", "--update", "photos.index"],
            f"model {StandIn().hash}, and this is model {StandIn(seed=1).hash}",
        ),
    ],
)
def test_mistakes_are_one_line_before_a_model_is_loaded(loads, photos, capsys, arguments, message):
    assert main(["encode", "student", "photos", "--out", "photos.codes"]) == 0
    build_index("photos.codes", "photos.index")
    loads.clear()
    capsys.readouterr()
    assert main(["encode", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = [line for line in told.err.splitlines() if not line.startswith("looking at")]
    assert len(lines) == 1
    assert lines[0].startswith("kdhash: ")
    assert message in lines[0]
    assert loads == []


def test_ctrl_c_says_how_to_go_on(loads, photos, capsys, monkeypatch):
    def stopped(self, pictures):
        raise KeyboardInterrupt

    monkeypatch.setattr(StandIn, "encode_pictures", stopped)
    assert main(["encode", "student", "photos", "--out", "codes"]) == 130
    assert capsys.readouterr().err.endswith("kdhash: stopped; the same command goes on where this one was\n")

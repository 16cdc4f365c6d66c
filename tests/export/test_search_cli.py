"""The command `search`: by picture, text, id and code, one query or many; what it prints, and what it imports."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdhash.__main__ import main
from kdhash.export import model as models
from kdhash.export.encode import encode
from kdhash.export.encode_rows import Settings
from kdhash.export.encode_sources import open_source
from kdhash.export.encode_texts import open_texts
from kdhash.export.queries import near_ids
from kdhash.retrieval.contact_sheet import CELL
from kdhash.retrieval.index import open_index
from kdhash.retrieval.items import open_items
from kdhash.retrieval.write_index import build_index, delete_items
from tests.export.stand_in import StandIn, write_pictures

MODEL = StandIn()
NAMES = [
    f"{'cats' if number % 2 else 'dogs'}/{number:03}.{('png', 'jpg', 'webp')[number % 3]}"
    for number in range(12)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `photos` and an index of them, with metadata; dogs/004.jpg is deleted from the index."""
    root = tmp_path_factory.mktemp("search")
    write_pictures(root / "photos", 12)
    rows = [
        {"image": f"photos/{name}", "id": name, "label": name[:3], "stars": n} for n, name in enumerate(NAMES)
    ]
    (root / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "student").mkdir()
    settings = Settings(batch_size=4, workers=2, model_path=str(root / "student"))
    encode(MODEL, open_source(root / "all.jsonl"), root / "codes", settings)
    build_index(root / "codes", root / "photos.index")
    delete_items(root / "photos.index", ["dogs/004.jpg"])
    (root / "lines.txt").write_text("a dog\na cat\n")
    (root / "wrong.jsonl").write_text('{"photo": "cat.jpg"}\n')
    encode(MODEL, open_texts(root / "lines.txt"), root / "texts", settings)
    other = StandIn(seed=1)
    encode(other, open_source(root / "photos"), root / "other.codes", settings)
    return root


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    there = {"student": MODEL, "other": StandIn(seed=1), "wide": StandIn(bits=64), "taught": StandIn(seed=2)}
    there["taught"].searches = (there["taught"].hash, MODEL.hash)

    def read(folder):
        if Path(folder).name not in there:
            raise FileNotFoundError(f"{folder} is no model folder")
        return there[Path(folder).name]

    monkeypatch.setattr(models, "read_model", read)
    monkeypatch.setattr(models, "load_model", lambda folder, engine="jax", batch_size=256: read(folder))
    return place


def expected(code, k=None, radius=None, without=None):
    """[(distance, id)] of the live items, brute force."""
    index = open_index("photos.index")
    [segment] = index.segments
    distances = np.bitwise_count(segment.codes ^ code).sum(axis=1)
    names = segment.table["id"].to_pylist()
    rows = [row for row in np.flatnonzero(~segment.deleted) if names[row] != without]
    order = sorted(rows, key=lambda row: (distances[row], row))
    found = [(int(distances[row]), names[row]) for row in order]
    return [pair for pair in found if radius is None or pair[0] <= radius][:k]


def asked(capsys, *arguments):
    assert main(["search", "photos.index", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def pairs(answer):
    return [(row["distance"], row["id"]) for row in answer["results"]]


def code_of(name):
    return MODEL.encode_pictures(MODEL.fit(f"photos/{name}")[None])[0]


def test_by_picture_text_id_and_code(here, capsys):
    code = code_of("dogs/004.jpg")
    answer = asked(capsys, "--picture", "photos/dogs/004.jpg", "-k", "3")
    assert pairs(answer) == expected(code, 3)
    assert answer["query"] == {
        "kind": "picture",
        "value": "photos/dogs/004.jpg",
        "code": code.tobytes().hex(),
    }
    assert (answer["items"], answer["k"], answer["radius"]) == (11, 3, None)
    assert answer["encode_ms"] > 0
    assert answer["search_ms"] > 0
    first = answer["results"][0]
    assert (first["rank"], first["label"]) == (1, first["id"][:3])
    assert pairs(asked(capsys, "--code", code.tobytes().hex())) == expected(code, 10)
    assert pairs(asked(capsys, "--text", "a dog in snow", "-k", "4")) == expected(
        MODEL.encode_texts(["a dog in snow"])[0], 4
    )
    answer = asked(capsys, "--id", "cats/001.jpg", "-k", "4")
    assert pairs(answer) == expected(code_of("cats/001.jpg"), 4, without="cats/001.jpg")
    assert answer["encode_ms"] == 0


def test_radius_filter_and_columns(here, capsys):
    code = code_of("cats/001.jpg")
    assert pairs(asked(capsys, "--id", "cats/001.jpg", "--radius", "15")) == expected(
        code, None, 15, "cats/001.jpg"
    )
    assert pairs(asked(capsys, "--code", code.tobytes().hex(), "--radius", "15", "-k", "2")) == expected(
        code, 2, 15
    )
    answer = asked(
        capsys, "--id", "cats/001.jpg", "--where", "stars > 4 and label = 'dog'", "--columns", "stars,label"
    )
    assert {row["id"] for row in answer["results"]} == {"dogs/006.png", "dogs/008.webp", "dogs/010.jpg"}
    assert set(answer["results"][0]) == {"rank", "distance", "number", "id", "stars", "label"}


def test_a_table_for_people(here, capsys):
    assert main(["search", "photos.index", "--id", "cats/001.jpg", "-k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [(first, name), _] = expected(code_of("cats/001.jpg"), 2, without="cats/001.jpg")
    assert lines[0].split() == ["rank", "bits", "id", "label", "stars", "width", "height"]
    assert lines[1].split()[:4] == ["1", str(first), name, name[:3]]
    assert lines[0].index("label") == lines[1].index(name[:3], lines[1].index(name) + len(name))
    assert lines[-1].startswith("2 of 11 items; search ")
    assert lines[-1].endswith(" ms")
    assert main(["search", "photos.index", "--picture", "photos/cats/001.jpg", "--radius", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("1 of 11 items within 0 bits; model ")
    assert "encode" in lines[-1]


def test_paths_are_those_of_files(here, capsys):
    assert (
        main(
            [
                "search",
                "photos.index",
                "--code",
                code_of("cats/001.jpg").tobytes().hex(),
                "--paths",
                "-k",
                "1",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out == "cats/001.jpg\n"  # the manifest's ids are no paths
    build = here / "by_path.index"
    if not build.exists():
        encode(MODEL, open_source(here / "photos"), here / "by_path", Settings(batch_size=4))
        build_index(here / "by_path", build)
    assert (
        main(
            [
                "search",
                "by_path.index",
                "--code",
                code_of("cats/001.jpg").tobytes().hex(),
                "--paths",
                "-k",
                "1",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out == f"{here / 'photos' / 'cats/001.jpg'}\n"


@pytest.mark.parametrize(
    "query",
    [("--picture", "photos/cats/001.jpg"), ("--text", "a dog in deep snow"), ("--id", "cats/001.jpg")],
)
def test_a_sheet_of_pictures(here, tmp_path, capsys, query):
    assert main(["search", "photos.index", *query, "-k", "7", "--sheet", str(tmp_path / "found.png")]) == 0
    assert "shows the query and 7 results" in capsys.readouterr().err
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.height > 2 * CELL  # the query above its results
        assert len(sheet.getcolors(2**24)) > 100


def test_a_batch_of_all_kinds(here, tmp_path, capsys):
    lines = [
        {"picture": str(here / "photos/cats/001.jpg")},
        {"text": "a dog"},
        {"id": "dogs/000.png"},
        {"id": "dogs/00.png"},
        {"code": "00ff00ff"},
        {"picture": "nowhere.png"},
    ]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        main(
            [
                "search",
                "photos.index",
                "--batch",
                str(tmp_path / "queries.jsonl"),
                "-k",
                "2",
                "--columns",
                "label",
            ]
        )
        == 3
    )
    told = capsys.readouterr()
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert [next(iter(answer)) for answer in answers] == ["picture", "text", "id", "id", "code", "picture"]
    for answer, code, without in (
        (answers[0], code_of("cats/001.jpg"), None),
        (answers[1], MODEL.encode_texts(["a dog"])[0], None),
        (answers[2], code_of("dogs/000.png"), "dogs/000.png"),
        (answers[4], np.frombuffer(bytes.fromhex("00ff00ff"), np.uint8), None),
    ):
        assert pairs(answer) == expected(code, 2, without=without)
        assert answer["results"][0]["label"] == answer["results"][0]["id"][:3]
    assert "did you mean" in answers[3]["error"]
    assert "no file" in answers[5]["error"]
    assert "6 queries, 2 could not be answered" in told.err


def test_batches_of_codes_pictures_ids_and_texts(here, tmp_path, capsys):
    def answers(source):
        assert main(["search", "photos.index", "--batch", str(source), "-k", "1"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    by_codes = answers("codes")
    assert [answer["picture"] for answer in by_codes] == NAMES
    assert [pairs(answer) for answer in by_codes] == [expected(code, 1) for code in open_items("codes").codes]
    by_pictures = answers("photos")
    assert sorted(answer["picture"] for answer in by_pictures) == sorted(f"photos/{name}" for name in NAMES)
    assert {answer["picture"][7:]: pairs(answer) for answer in by_pictures} == {
        answer["picture"]: pairs(answer) for answer in by_codes
    }
    assert [answer["text"] for answer in answers("texts")] == ["1#0", "2#0"]
    assert [answer["text"] for answer in answers("lines.txt")] == ["a dog", "a cat"]
    (tmp_path / "ids.txt").write_text("cats/001.jpg\ndogs/000.png\n")
    assert [answer["id"] for answer in answers(tmp_path / "ids.txt")] == ["cats/001.jpg", "dogs/000.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--id", "cats/001.png"], "no item 'cats/001.png' in photos.index; did you mean 'cats/001.jpg'?"),
        (["--id", "/home/me/photos/cats/001.jpg"], "did you mean 'cats/001.jpg'?"),
        (["--id", "cast/001.gif"], "did you mean 'cats/001.jpg'?"),
        (["--id", "zebra"], "no item 'zebra' in photos.index; `kdhash index info` says what is in it"),
        (["--id", "dogs/004.jpg"], "no item 'dogs/004.jpg'"),
        (["--code", "00ff"], "'00ff' is no code of 32 bits: give 8 hexadecimal digits"),
        (["--code", "00ff00fg"], "is no code of 32 bits"),
        (["--picture", "nowhere.png"], "no file nowhere.png"),
        (["--picture", "lines.txt"], "lines.txt: no picture in a known format"),
        (
            ["--picture", "photos/cats/001.jpg", "--model", "other"],
            f"of model {MODEL.hash}, and models/stand-in is model {StandIn(seed=1).hash}",
        ),
        (
            ["--picture", "photos/cats/001.jpg", "--model", "wide"],
            "has codes of 32 bits, and models/stand-in makes 64",
        ),
        (["--picture", "photos/cats/001.jpg", "--model", "nowhere"], "nowhere is no model folder"),
        (
            ["--batch", "other.codes"],
            f"other.codes has codes of model {StandIn(seed=1).hash}, and photos.index of model {MODEL.hash}",
        ),
        (["--batch", "nowhere"], "--batch: no folder or file nowhere"),
        (
            ["--batch", "wrong.jsonl"],
            'wrong.jsonl line 1: give one of picture, text, id, code as JSON, such as {"picture": "cat.jpg"}',
        ),
        (["--id", "cats/001.jpg", "-k", "0"], "-k is 0; give at least 1"),
        (["--id", "cats/001.jpg", "--radius", "-1"], "--radius is -1; give 0 bits or more"),
        (["--id", "cats/001.jpg", "--where", "lable = 'x'"], "no column 'lable'; did you mean 'label'?"),
        (
            ["--id", "cats/001.jpg", "--columns", "lable"],
            "photos.index has no column 'lable'; it has id, image, label",
        ),
        (["--id", "cats/001.jpg", "--engine", "hnsw"], "'hnsw' is unknown"),
    ],
)
def test_mistakes_are_one_line(here, capsys, arguments, message):
    assert main(["search", "photos.index", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert told.err.startswith("kdhash: ")
    # an id may be given in both quotes
    assert message in told.err


def test_a_student_may_search_its_teachers_codes(here, capsys):
    taught = models.read_model("taught")
    answer = asked(capsys, "--picture", "photos/cats/001.jpg", "--model", "taught", "-k", "3")
    assert pairs(answer) == expected(taught.encode_pictures(taught.fit("photos/cats/001.jpg")[None])[0], 3)


def test_without_a_model_a_picture_is_refused(here, tmp_path, capsys):
    settings = Settings(batch_size=4, model_path=str(tmp_path / "gone"))
    encode(MODEL, open_source(here / "photos"), tmp_path / "codes", settings)
    build_index(tmp_path / "codes", tmp_path / "index")
    assert main(["search", str(tmp_path / "index"), "--picture", "photos/cats/001.jpg"]) == 2
    told = capsys.readouterr().err
    assert "which model?" in told
    assert f"made by model {MODEL.hash[:12]}, which lay in {tmp_path / 'gone'}); give --model FOLDER" in told


@pytest.mark.parametrize(
    ("arguments", "lacking", "tried"),
    [
        ((), (), ["onnx"]),
        ((), ("onnx",), ["onnx", "jax"]),
        (("--model-engine", "jax"), ("onnx",), ["jax"]),
        (("--model-engine", "onnx"), ("onnx",), ["onnx"]),
    ],
)
def test_the_engine_that_starts_fastest_is_taken(here, capsys, monkeypatch, arguments, lacking, tried):
    engines = []

    def load(folder, engine="jax", batch_size=256):
        engines.append(engine)
        if engine in lacking:
            raise ImportError("ONNX files need the extra 'onnx': pip install 'kdhash[onnx]'")
        return MODEL

    monkeypatch.setattr(models, "load_model", load)
    failed = main(["search", "photos.index", "--picture", "photos/cats/001.jpg", *arguments])
    assert (failed, engines) == (2 if tried[-1] in lacking else 0, tried)
    assert ("pip install 'kdhash[onnx]'" in capsys.readouterr().err) == bool(failed)


def test_near_ids_of_deleted_items_are_not_offered(here):
    assert "dogs/004.jpg" not in near_ids(open_index("photos.index"), "004.jpg", 12)


def test_searches_without_pictures_start_no_jax(place):
    program = """
import sys
from kdhash.__main__ import main
try:
    main(["search", "--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {"jax", "flax", "tensorflow_datasets", "faiss", "numba", "pyarrow"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for query in (["--id", "cats/001.jpg"], ["--code", "00ff00ff"], ["--batch", "codes"]):
    assert main(["search", "photos.index", *query]) == 0
assert not {"jax", "flax", "tensorflow_datasets", "faiss"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

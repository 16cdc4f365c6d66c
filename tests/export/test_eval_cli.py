"""The command `eval`: its values against `evaluate`, overlap, several kinds of queries, approximate engines."""

import json

import numpy as np
import pyarrow as pa
import pytest

from kdhash.__main__ import main
from kdhash.export import model as models
from kdhash.export.eval_index import label_arrays
from kdhash.retrieval import evaluate
from kdhash.retrieval.index import open_index
from kdhash.retrieval.items import open_items, write_items
from kdhash.retrieval.write_index import add_items, build_index, delete_items
from tests.export.stand_in import StandIn, write_picture

CLASSES = np.array(["cat", "dog", "owl", "fox"])


def write_codes(folder, count, seed, *, name="item", lonely=False, **more):
    """Clustered codes with the columns label, tags, number of legs and sha256; of some rows label is missing."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 4, count)
    centres = np.random.default_rng(0).random((4, 64)) < 0.5
    codes = np.packbits(centres[classes] ^ (rng.random((count, 64)) < 0.25), axis=1)
    labels = [None if row % 10 == 9 else str(CLASSES[one]) for row, one in enumerate(classes)]
    tags = [sorted({str(CLASSES[one]), str(CLASSES[rng.integers(4)])}) for one in classes]
    if lonely:
        labels[0], tags[0] = "yeti", ["yeti"]
    table = {
        "id": [f"{name}/{row}" for row in range(count)],
        "label": pa.array(labels, pa.string()),
        "tags": pa.array(tags, pa.list_(pa.string())),
        "legs": pa.array(classes, pa.int64()),
        "weight": pa.array(rng.random(count)),
        "sha256": [f"{name} {row}" for row in range(count)],
    }
    write_items(folder, codes, pa.table(table), model="m", **more)
    return codes, labels, tags, classes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("eval")
    write_codes(root / "a", 150, 1)
    write_codes(root / "b", 50, 2, name="more")
    build_index(root / "a", root / "index")
    add_items(root / "index", root / "b")
    delete_items(root / "index", ["item/3", "more/7"])
    write_codes(root / "queries", 30, 3, name="query", lonely=True)
    write_codes(root / "captions", 20, 4, name="caption", facts={"items": "texts"})
    return root


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def run(capsys, *arguments):
    assert main(["eval", "index", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def live():
    index = open_index("index")
    numbers = np.concatenate([segment.numbers[~segment.deleted] for segment in index.segments])
    return index.codes_of(numbers), index.rows(numbers)


@pytest.mark.parametrize("column", ["label", "tags", "legs"])
def test_the_values_are_those_of_evaluate(here, capsys, column):
    facts = run(capsys, "queries", "--labels", column, "--k", "10", "0")
    [scores] = facts["scores"]
    codes, rows = live()
    queries = open_items("queries")
    query_rows = [row for row, value in enumerate(queries.table[column].to_pylist()) if value is not None]
    sides = []
    names = sorted({*CLASSES, "yeti", "0", "1", "2", "3"})
    for values in (queries.table[column].take(query_rows).to_pylist(), rows[column].to_pylist()):
        table = np.zeros((len(values), len(names)), np.uint8)
        for row, value in enumerate(values):
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                table[row, names.index(str(one))] = 1
        sides.append(table)
    expected = evaluate(queries.codes[query_rows], codes, *sides, ks=(10, 0))
    for name, value in expected.items():
        if not isinstance(value, np.ndarray):
            assert scores[name] == pytest.approx(value, abs=1e-12), name
    assert (facts["items"], facts["bits"], facts["labels"]) == (198, 64, column)
    assert (scores["queries"], scores["unlabelled"]) == (len(query_rows), 30 - len(query_rows))
    assert scores["queries_without_relevant"] == (0 if column == "legs" else 1)
    assert scores["map@all"] > 0.4


def test_a_label_on_one_side_and_a_list_on_the_other():
    query, database = (
        pa.array(["cat", "dog"]),
        pa.array([["dog", "owl"], None, ["cat"], []], pa.list_(pa.string())),
    )
    ours, theirs, names = label_arrays(query, database)
    assert names == ["cat", "dog"]
    assert (ours @ theirs.T > 0).tolist() == [[False, False, True, False], [True, False, False, False]]


def test_pictures_and_texts_are_scored_apart(here, capsys):
    both = run(capsys, "queries", "captions", "--labels", "tags", "--k", "5")["scores"]
    assert [(scores["kind"], scores["queries"]) for scores in both] == [("pictures", 30), ("texts", 20)]
    assert both[1] == run(capsys, "captions", "--labels", "tags", "--k", "5")["scores"][0]
    assert main(["eval", "index", "queries", "captions", "--labels", "tags", "--k", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "198 items of 64 bits, engine exact; labels 'tags'" in lines[0]
    assert lines[1].split() == ["pictures", "of", "queries", "stable", "texts", "of", "captions", "stable"]
    cells = {tuple(line.split()[:-4]): line.split()[-4:] for line in lines if line.startswith("mAP")}
    assert cells["mAP@5",] == [f"{scores[name]:.4f}" for scores in both for name in ("map@5", "map@5_stable")]
    assert any(line.split() == ["queries", "30", "20"] for line in lines)


def test_queries_that_lie_in_the_index_are_refused(here, tmp_path, capsys):
    write_codes(tmp_path / "same_content", 3, 5, name="item")
    items = open_items(tmp_path / "same_content")
    renamed = items.table.set_column(0, "id", pa.array(["x", "y", "z"]))
    write_items(tmp_path / "renamed", items.codes, renamed, model="m")
    assert main(["eval", "index", str(tmp_path / "renamed"), "--labels", "label"]) == 2
    told = capsys.readouterr().err
    assert "3 queries of" in told
    assert "such as 'x' (in the index 'item/0')" in told
    assert "--allow-overlap" in told
    facts = run(capsys, str(tmp_path / "renamed"), "--labels", "label", "--allow-overlap")
    assert facts["scores"][0]["in_index_too"] == 3
    # the same id, with nothing known of the content
    write_items(tmp_path / "no_content", items.codes, items.table.drop_columns(["sha256"]), model="m")
    assert main(["eval", "index", str(tmp_path / "no_content"), "--labels", "label"]) == 2
    assert "such as 'item/0': each finds itself" in capsys.readouterr().err
    # the same id, and other content: another picture
    other = items.table.set_column(5, "sha256", pa.array(["1", "2", "3"]))
    assert other.column_names == items.table.column_names
    write_items(tmp_path / "other", items.codes, other, model="m")
    assert main(["eval", "index", str(tmp_path / "other"), "--labels", "label"]) == 0


def test_an_approximate_engine_is_measured_against_the_exact_one(here, capsys, monkeypatch):
    from kdhash.retrieval import index as indexes

    real = indexes.Index.search

    def search(self, codes, *, k=10, radius=None, where=None, engine="exact"):
        found = real(self, codes, k=k)
        if engine == "exact":
            return found
        # finds only every second of the nearest
        kept = [part[:, ::2] for part in (found.distances, found.numbers)]
        return type(found)(*kept, np.minimum(found.counts, kept[0].shape[1]))

    monkeypatch.setattr(indexes.Index, "search", search)
    [scores] = run(capsys, "queries", "--labels", "label", "--engine", "ivf", "--k", "10", "0")["scores"]
    assert scores["recall_of_exact@10"] == 0.5
    assert "map@all" not in scores
    codes, rows = live()
    queries = open_items("queries")
    labels = queries.table["label"].to_pylist()
    hits = []
    for query in np.flatnonzero([label is not None for label in labels]):
        nearest = np.argsort(np.bitwise_count(codes ^ queries.codes[query]).sum(axis=1), kind="stable")[:10:2]
        hits.append([rows["label"][int(item)].as_py() == labels[query] for item in nearest])
    assert scores["precision@10_stable"] == pytest.approx(np.sum(hits, axis=1).mean() / 10)
    assert main(["eval", "index", "queries", "--labels", "label", "--engine", "ivf", "--k", "10"]) == 0
    assert "recall of exact@10" in capsys.readouterr().out


def test_pictures_that_are_not_encoded_yet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    student = StandIn()
    monkeypatch.setattr(models, "read_model", lambda folder: student)
    monkeypatch.setattr(models, "load_model", lambda folder, engine="jax", batch_size=256: student)
    for side, first in (("photos", 0), ("queries", 50)):
        for number in range(first, first + 8):
            write_picture(tmp_path / side / f"{number}.png", number)
        rows = [
            {"image": f"{side}/{number}.png", "label": str(number % 2)} for number in range(first, first + 8)
        ]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["encode", "student", "photos.jsonl", "--out", "codes"]) == 0
    build_index("codes", "index")
    capsys.readouterr()
    direct = run(capsys, "queries.jsonl", "--labels", "label", "--model", "student", "--k", "3")["scores"][0]
    assert main(["encode", "student", "queries.jsonl", "--out", "queries.codes"]) == 0
    capsys.readouterr()
    encoded = run(capsys, "queries.codes", "--labels", "label", "--k", "3")["scores"][0]
    assert {**direct, "name": ""} == {**encoded, "name": ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["queries", "--labels", "lable"],
            "index has no column 'lable'; it has label, tags, legs, weight, sha256",
        ),
        (["nowhere", "--labels", "label"], "nowhere"),
        (["queries", "--labels", "weight"], "a column of double has no classes"),
        (["queries", "--labels", "label", "--k", "-1"], "--k is -1; give 0 or more"),
        (["queries", "--labels", "label", "--radius", "-1"], "--radius is -1"),
        (["queries", "--labels", "label", "--engine", "ivf", "--k", "0"], "give --k above 0"),
        (["unlabelled", "--labels", "label"], "unlabelled has no column 'label'; it has no metadata"),
        (["foreign", "--labels", "label"], "foreign has codes of model other, and index of model m"),
    ],
)
def test_mistakes_are_one_line(here, capsys, arguments, message):
    for name, model in (("unlabelled", "m"), ("foreign", "other")):
        if not (here / name).exists():
            write_items(here / name, np.zeros((1, 8), np.uint8), pa.table({"id": ["x"]}), model=model)
    assert main(["eval", "index", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert message in told.err

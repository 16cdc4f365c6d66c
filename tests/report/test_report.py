"""The report from made-up numbers: complete, self-contained, safe."""

import copy
import json
import re

import numpy as np
import pytest

from kdhash.report import figures, pairs, table_markdown, table_text, write_report

NASTY = "<script>alert('x')</script> & | co"


def made_up():
    rng = np.random.default_rng(0)

    def row(group, name, score, **more):
        metrics = {
            "map@all": score,
            "map@1000": score + 0.01,
            "precision@100": score,
            "precision_radius2": 0.5,
        }
        facts = {"note": "", "encode_ms": 0.1, "parameters": 1234, "seconds": 5.0, "accuracy": None}
        return {"group": group, "name": name, "metrics": metrics, **facts, **more}

    rows = [
        row("teacher", "resnet20", 0.9),
        row("teacher", NASTY, 0.91),
        row("fusion", "attention", 0.95, encode_ms=2.0),
        row("student", "student, no transfer", 0.8),
        row("student", "student, taught", 0.85),
        row("float", "cosine", float("nan"), parameters=None, seconds=None),
    ]
    results = {
        "title": "DMTH on made-up data, 16 bits",
        "method": "dmth",
        "dataset": "made-up",
        "protocol": {
            "name": "holdout",
            "seed": 0,
            "checksum": "ab" * 32,
            "query": 10,
            "database": 90,
            "train": 80,
            "validation": 10,
        },
        "bits": 16,
        "seed": 0,
        "command": "python -m kdhash.main --config x",
        "machine": {"platform": "p", "device": "cpu", "device_count": 1, "jax": "0", "python": "3"},
        "seconds": {"features": 1.0},
        "class_names": ["cat", NASTY],
        "rows": rows,
        "claims": [
            {"claim": "It pays", "measured": "+1", "holds": True},
            {"claim": "It is free", "measured": "-1", "holds": False},
        ],
    }
    names = [r["name"] for r in rows if r["group"] != "float"]
    pictures = rng.integers(0, 255, (2, 10, 8, 8, 3), dtype=np.uint8)
    arrays = {
        "radius_curves": {
            name: {"precision": np.linspace(1, 0.1, 17), "recall": np.linspace(0, 1, 17)} for name in names
        },
        "precision_at": {"k": np.array([1, 10, 90]), **{name: np.array([0.9, 0.8, 0.5]) for name in names}},
        "attention": {
            "teachers": ["a", "b"],
            "classes": ["cat", NASTY],
            "weights": np.array([[0.4, 0.6], [0.5, 0.5]]),
        },
        "retrieval_grid": [
            {
                "row": NASTY,
                "queries": pictures[:, 0],
                "query_labels": np.array([0, 1]),
                "results": pictures,
                "result_labels": rng.integers(0, 2, (2, 10)),
                "distances": rng.integers(0, 16, (2, 10)),
            }
        ],
        "training": {
            "plain": {"step": [1, 2], "loss": [2.0, 1.0], "validation_step": [2], "validation_map": [0.5]}
        },
    }
    return results, arrays


def test_page_is_complete_escaped_and_needs_nothing_else(tmp_path):
    results, arrays = made_up()
    page = write_report(results, arrays, tmp_path).read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert not re.search(r"url\(|@import|http", page)
    for row in results["rows"]:
        assert row["name"].split("<")[0] in page
    assert page.count("data:image/png;base64,") == 5
    assert "✓ holds" in page
    assert "✗ does not hold" in page
    assert results["command"] in page
    for name in ("precision_recall", "precision_at_n", "attention", "retrieved_1", "training"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.tmp"))


def test_summary_goes_by_the_first_column_of_the_method(tmp_path):
    results, _ = made_up()
    assert (
        "The best student (taught) reaches mAP@all 0.8500" in write_report(results, {}, tmp_path).read_text()
    )
    results |= {"method": "brcd", "seeds": [3, 5]}
    results["rows"][3]["metrics"]["map@1000"] = 0.99
    page = write_report(results, {}, tmp_path).read_text()
    assert "The best student (no transfer) reaches mAP@1000 0.9900" in page
    assert "<dt>seed</dt><dd>3, 5</dd>" in page


def test_a_note_on_labels_stands_above_every_table(tmp_path):
    results, _ = made_up()
    results["labels_note"] = f"Labels by {NASTY}."
    page = write_report(results, {}, tmp_path).read_text()
    assert "<script" not in page
    assert page.index("Labels by &lt;script&gt;") < page.index("Comparison")
    assert table_markdown(results).startswith(f"Labels by {NASTY}.\n\n| row |")
    assert table_text(results).splitlines()[1] == f"Labels by {NASTY}."
    assert json.loads((tmp_path / "results.json").read_text())["labels_note"] == results["labels_note"]


def test_dollars_in_captions_and_class_names_are_no_formulas():
    picture, hostile = np.zeros((4, 4, 3), np.uint8), r"$\frac and 5$"
    grid = {"queries": [picture], "results": [[picture]], "query_labels": [0], "result_labels": [[1]]}
    assert figures.retrieval_grid(grid | {"distances": [[3]]}, [hostile, hostile]).startswith(b"\x89PNG")
    assert figures.attention({"weights": [[0.5, 0.5]], "classes": [hostile], "teachers": ["a", "b"]})
    found = {"texts": [hostile], "pictures": [[picture]], "distances": [[3]], "marks": [["own"]]}
    assert pairs.text_to_image(found)
    assert pairs.image_to_text(found | {"texts": [[hostile]], "pictures": [picture]})


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (8, 16), (16, 8)])
def test_pictures_keep_their_shape_and_stay_in_their_cells(rows, columns):
    _, axes = figures.canvas(4, 3)
    figures.show_picture(axes, np.zeros((rows, columns, 3), np.uint8), (1, 2, 0.5), "", "#000000", 1.0)
    left, right, bottom, top = axes.images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(columns / rows)
    assert max(right - left, bottom - top) == pytest.approx(0.5)
    assert ((left + right) / 2, (bottom + top) / 2) == pytest.approx((1.25, 2.25))


def test_the_study_of_masks_says_whose_scores_it_shows(tmp_path):
    results, _ = made_up()
    kept = {"margins": np.array([0.0, 0.5]), "kept": np.array([[1.0, 0.9], [0.5, 0.4]])}
    page = write_report(results | {"seeds": [7, 8]}, {"masks": kept}, tmp_path).read_text()
    assert "validation" not in page.split("Bit masks")[1].split("How this was measured")[0]
    study = kept | {"study_margins": [0.5], "study_validation": [0.6]}
    page = write_report(results | {"seeds": [7, 8]}, {"masks": study}, tmp_path).read_text()
    assert "validation mAP@1000 of the student &#x27;brcd&#x27; of seed 7" in page


def test_missing_sections_are_left_out(tmp_path):
    results, _ = made_up()
    page = write_report(results | {"claims": []}, {}, tmp_path).read_text()
    assert "data:image" not in page
    assert "Comparison" in page


def test_json_holds_no_nan_and_tables_a_dash(tmp_path):
    results, arrays = made_up()
    write_report(results, arrays, tmp_path)
    stored = json.loads(
        (tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    assert stored["rows"][-1]["metrics"]["map@all"] is None
    assert "–" in table_text(results).splitlines()[-1]


def test_best_of_each_group_is_marked():
    results, _ = made_up()
    table = table_markdown(results)
    assert "**0.8500**" in table
    assert "**0.8000**" not in table
    assert "0.9500" in table  # alone in its group: nothing to be better than
    assert "**0.9500**" not in table


def test_tables_and_report_leave_their_input_alone(tmp_path):
    results, arrays = made_up()
    before = copy.deepcopy(results)
    write_report(results, arrays, tmp_path)
    np.testing.assert_equal(results, before)

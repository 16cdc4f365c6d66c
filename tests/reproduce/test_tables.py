"""From files to tables: what is kept, how seeds are put together, what is said of what is missing."""

import json
import re
from pathlib import Path

import pytest

from kdhash.reproduce import condense, pareto, readme, robustness
from kdhash.reproduce.__main__ import PAGES, main, write_tables
from kdhash.reproduce.blocks import blocks
from kdhash.reproduce.pooled import Value, difference, pool
from kdhash.reproduce.start import is_done
from kdhash.reproduce.tables import MARKER, Claim, Column, claims_by_group, fill, named, scores, verdict
from tests.reproduce import made_up

ROOT = Path(__file__).resolve().parents[2]


def three(**more):
    return [made_up.document(name=f"cifar10-2-64bits-seed{seed}", **more) for seed in range(3)]


def test_the_pages_are_what_the_files_give():
    made = blocks(ROOT / "results")
    named = []
    for name in PAGES:
        page = (ROOT / name).read_text()
        assert page == fill(page, made), name
        named += [match[2] for match in MARKER.finditer(page)]
    assert sorted(named) == sorted(name for name in made if name != "quickstart/runs")


def test_files_are_of_runs_as_they_are_planned_now():
    for path in (ROOT / "results").glob("*/*.json"):
        if path.parent.name != "robustness":
            assert is_done(
                path.parent.name, made_up.run_named(path.parent.name, path.stem), ROOT / "results"
            ), path
        assert not re.search(r"(?<![\w.*])/[a-z]", path.read_text()), path  # no place of a machine


def test_what_is_kept_of_a_report_is_small_and_says_how_it_came_about(tmp_path):
    document = made_up.document()
    assert document["command"].startswith(
        "python -m kdhash.main --config configs/dmth_cifar10.py --workdir runs/"
    )
    assert "/some/machine" not in json.dumps(document)
    assert document["protocol"]["checksum"] == "ab" * 32
    assert document["seconds"] == {"teacher": 1.2}
    first, last = document["rows"][0], document["rows"][-1]
    assert set(first["metrics"]) == {
        "map@all",
        "map@1000",
        "map@all_stable",
        "precision_radius2",
        "validation",
    }
    assert first["metrics"]["map@all"] == [0.9]
    assert last["metrics"]["validation"] == [None]  # JSON has no NaN
    assert "networks" not in last
    condense.write(tmp_path / "a" / "one.json", document)
    condense.write(tmp_path / "two.json", made_up.document())
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "a" / "one.json").read_bytes()
    assert condense.read(tmp_path / "two.json") == document
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one.json"]
    for damaged in ("{", "[]", '{"rows": []}'):
        (tmp_path / "two.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"two.json is damaged .*; delete it and run its table again"):
            condense.read(tmp_path / "two.json")


def test_seeds_inside_a_run_are_kept_one_by_one():
    report = made_up.dmth_report()
    report |= {"seeds": [4, 5], "method": "brcd"}
    by_seed = [{"map@1000": 0.5, "asymmetric map@1000": 0.6}, {"map@1000": 0.7, "asymmetric map@1000": 0.6}]
    report["rows"] = [
        {"group": "student", "name": "brcd", "seeds": [4, 5], "metrics": {}, "by_seed": by_seed}
    ]
    found = condense.condense(report, "brcd", made_up.run_named("brcd", "64bits"), 1)["rows"][0]
    assert found["seeds"] == [4, 5]
    assert found["metrics"] == {"map@1000": [0.5, 0.7], "asymmetric map@1000": [0.6, 0.6]}


def test_rows_of_several_seeds_are_put_together():
    rows = pool(three(), reference="attention")
    assert rows["large"].metrics["map@all"] == [0.91, 0.911, 0.912]
    assert rows["small"].costs["relative"] == [0.25] * 3
    gain = difference(rows["attention"], rows["large"], "map@all")
    assert (round(gain.mean, 6), round(gain.deviation, 6), gain.seeds) == (0.039, 0.001, 3)
    once = pool([made_up.document()])["small"]
    assert difference(rows["attention"], once, "map@all").seeds == 3
    with pytest.raises(ValueError, match="small has 1 seeds, large 3"):
        difference(once, rows["large"], "map@all")


@pytest.mark.parametrize(
    ("gain", "wanted", "told"),
    [
        ((0.03, 0.001, 3), 0.02, "**holds**"),
        ((0.0205, 0.001, 3), 0.02, "within the deviation"),
        ((0.01, 0.001, 3), 0.02, "**does not hold**"),
        ((0.03, 0.0, 1), 0.02, "yes (one seed)"),
        ((0.0, 0.0, 3), 0.0, "within the deviation"),
    ],
)
def test_a_claim_holds_beyond_the_deviation(gain, wanted, told):
    assert verdict(Value(*gain), wanted) == told


def test_scores_show_deviation_best_costs_and_what_was_not_run():
    columns = [
        Column("64 bits", "cifar10-2-64bits", "map@all"),
        Column("16 bits", "cifar10-2-16bits", "map@all"),
    ]
    lines = scores(three(), columns, costs="cifar10-2-64bits", reference="attention").splitlines()
    assert lines[0] == "| row | 64 bits (3) | 16 bits | parameters | M mult.-adds | encode time |"
    assert "| large | 0.9110 ± 0.0010 | not run | 10 | 1.0 | 0.25 |" in lines
    assert "| small_mirrored | **0.9300 ± 0.0000** | not run | 10 | 1.0 | 0.25 |" in lines
    assert len({line.count("|") for line in lines}) == 1
    assert scores([], columns) == "*Not run yet.*"


def files_of(folder, documents):
    for document in documents:
        condense.write(folder / document["table"] / f"{document['run']}.json", document)
    return folder


def test_claims_of_the_paper_are_answered(tmp_path):
    made = blocks(files_of(tmp_path, three()))
    told = made["dmth-resnets/cifar10-2-claims"]().splitlines()
    fused = next(line for line in told if "(a) fused" in line)
    assert fused.endswith(
        "attention 0.9500 ± 0.0000; large 0.9110 ± 0.0010 | +3.90 ± 0.10 | > 2 | **holds** |"  # of rivals the best
    )
    assert any("concatenation | not run |" in line for line in told)
    assert any("+5.00 ± 0.00 | > 4 | **holds** |" in line for line in told if "(b)" in line)
    assert (
        "1.00 times the encode time of student, no transfer, parameters and multiply-adds the same"
        in told[-1]
    )
    ran = made["dmth-resnets/runs"]()
    assert "| `cifar10-2-64bits` | cifar10, cifar10-2 (`abababab`) | 10, 90, 80 | 64 | 0, 1, 2 | CPU (" in ran
    assert "| `cifar10-2-16bits` | not run |" in ran
    assert made["brcd/claims"]() == "*Not run yet.*"


def test_claims_by_group_are_bold_where_they_hold_and_say_what_is_missing():
    def asked(group):
        return [
            Claim("ahead", group, named("attention"), named("mean_mirrored"), "map@all"),
            Claim("far ahead", group, named("attention"), named("mean_mirrored"), "map@all", 2.0),
            Claim("of one group", group, named("attention"), named("extra"), "map@all"),
            Claim("of none", group, named("attention"), named("nobody"), "map@all"),
        ]

    sixteen = [made_up.document(name=f"cifar10-2-16bits-seed{seed}") for seed in range(3)]
    for document in sixteen:
        document["rows"].append({**document["rows"][4], "name": "extra"})
    groups = {f"{count} bits": f"cifar10-2-{count}bits" for count in (16, 64, 128)}
    assert claims_by_group([*three(), *sixteen], asked, groups).splitlines() == [
        "| claim | 16 bits | 64 bits | 128 bits |",
        "|---|---:|---:|---:|",
        "| ahead | **+1.00 ± 0.00** | **+1.00 ± 0.00** | not run |",
        "| far ahead (> 2) | +1.00 ± 0.00 | +1.00 ± 0.00 | not run |",
        "| of one group | +0.00 ± 0.00 | – | not run |",
    ]
    assert claims_by_group([], asked, groups) == "*Not run yet.*"


def test_beyond_says_what_is_kept_and_what_it_costs(tmp_path):
    made = blocks(files_of(tmp_path, [made_up.document("beyond", "two_views-seed0", student=0.95 * 0.98)]))
    line = next(line for line in made["beyond/students"]().splitlines() if "`two_views`" in line)
    assert (
        line == "| `two_views` (1) | taught by attention | 0.9310 | 98.00 % | 0.2 | 10.0 % | 5.0 % | 0.25 |"
    )


def test_the_front_holds_what_no_cheaper_row_equals(tmp_path):
    points = pareto.points_of(three())
    assert {point.group for point in points} == {"teacher", "fusion", "student"}
    names = [point.name for point in pareto.front(points, "multiply_adds")]
    assert names == ["cifar10-2-64bits, taught by attention", "mean_mirrored", "attention"]
    assert pareto.figure(points).startswith(b"\x89PNG")
    assert pareto.points_of([]) == []


def test_tables_are_written_into_the_page_and_a_second_time_change_nothing(tmp_path):
    page, figure = tmp_path / "page.md", tmp_path / "figures" / "pareto.png"
    page.write_text("By hand.\n\n<!-- results: pareto -->\nold\n<!-- end -->\n\nMore.\n")
    arguments = ["tables", "--results", str(tmp_path), "--page", str(page), "--figure", str(figure)]
    assert main(arguments) == 0
    assert page.read_text() == "By hand.\n\n<!-- results: pareto -->\n*Not run yet.*\n<!-- end -->\n\nMore.\n"
    assert not figure.exists()
    files_of(tmp_path, three())
    write_tables(tmp_path, [page], figure)
    told = page.read_text()
    assert "![mAP@all against encode time and multiply-adds](figures/pareto.png)\n<!-- end -->" in told
    assert figure.exists()
    write_tables(tmp_path, [page], figure)
    assert page.read_text() == told
    page.write_text("<!-- results: paretto -->\n<!-- end -->")
    assert main(arguments) == 2


def test_spoilt_queries_are_told_as_points_lost():
    def measured(seed, spoilt):
        single = f"net{seed}"  # which one it is can differ
        row = {
            "group": "student",
            "name": f"student, taught by {single}",
            "seeds": [seed],
            "metrics": {"clean": [0.8], "jpeg 50": [spoilt]},
        }
        return {"group": "x", "best_single": single, "rows": [row]}

    lines = robustness.table([measured(0, 0.7), measured(1, 0.72)]).splitlines()
    assert lines[0] == "| queries (2) | student, taught by the best single |"
    assert lines[2:] == ["| clean | 0.8000 ± 0.0000 |", "| jpeg 50 | -9.0 ± 1.4 |"]


def test_what_spoilt_queries_leave_is_a_share_and_a_lead():
    def measured(seed, taught):
        scores = {"student, no transfer": (0.5, 0.4), "student, taught by attention": (0.8, taught)}
        rows = [
            {
                "group": "student",
                "name": name,
                "seeds": [seed],
                "metrics": {"clean": [clean], "blur 1": [blur]},
            }
            for name, (clean, blur) in scores.items()
        ]
        return {"group": "x", "best_single": "net", "rows": rows}

    lines = robustness.kept([measured(0, 0.4), measured(1, 0.48)]).splitlines()
    assert lines[2:] == ["| clean | 100 % | 100 % | +30.0 ± 0.0 |", "| blur 1 | 80 % | 55 % | +4.0 ± 5.7 |"]
    assert robustness.kept([]) == "*Not run yet.*"


def test_students_of_the_best_single_teacher_are_one_row_whichever_it_is():
    first, second = (made_up.document(name=f"cifar10-2-64bits-seed{seed}") for seed in (0, 1))
    for document, name in ((first, "small"), (second, "large")):
        document["rows"].append({**document["rows"][-1], "name": f"student, taught by {name}"})
    rows = pool([first, second])
    assert rows["student, taught by the best single"].costs["parameters"] == [5, 5]
    assert not {"student, taught by small", "student, taught by large"} & set(rows)


def test_the_readme_has_a_few_rows_in_its_own_words():
    lines = [
        readme.Line("the best teacher", "cifar10-2-64bits", "large"),
        readme.Line("untaught", "cifar10-2-64bits", "student, no transfer"),
        readme.Line("taught", "cifar10-2-64bits", "student, taught by attention"),
        readme.Line("much later", "two_views", "student, taught by attention"),
    ]
    columns = {"mAP@all": "map@all", "R@10": "i2t recall@10"}
    assert readme.short(three(), lines, columns).splitlines() == [
        "| row | mAP@all | R@10 | million multiply-adds |",
        "|---|---:|---:|---:|",
        "| the best teacher | 0.9110 ± 0.0010 | – | 1.0 |",
        "| untaught | 0.8000 ± 0.0000 | – | 0.2 |",
        "| taught | **0.8500 ± 0.0000** | – | 0.2 |",
        "| much later: not run | – | – | – |",
    ]
    assert readme.short([], lines, columns) == "*Not run yet.*"

"""A BRCD run on handwritten digits with two small frozen networks: rows, seeds, a second start, errors."""

import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from kdhash.config import ConfigError, check_config
from kdhash.data import load_dataset, load_protocol
from kdhash.experiment.brcd_run import claims
from kdhash.experiment.hasher_inputs import choose_views, open_inputs
from kdhash.experiment.run import run
from kdhash.export import load_model
from kdhash.export.write import export_run
from kdhash.models.backbones import make_backbone
from kdhash.retrieval import mean_average_precision
from kdhash.teachers.registry import save_variables
from kdhash.teachers.views import view_pictures
from tests.experiment.test_run import load_config, results_of

FROM_SCRATCH = {"arch": "convnet", "sizes": {"widths": (8,)}, "mean": (0.5,) * 3, "std": (0.5,) * 3}
ROWS = ("none", "feature", "brcd", "brcd_published")


def small(folder):
    """The configuration of CIFAR-10 on digits; backbones with random weights, which are hashers enough."""
    config = load_config("brcd_cifar10").unlock()
    config.dataset, config.protocol, config.validation_per_class = "digits", "holdout", 20
    config.image_size, config.bits, config.seeds = 8, 16, (0, 1)
    config.weights_dir = str(folder)
    config.backbones = {
        name: {
            "weights": f"{name}.safetensors",
            "arch": "mlp",
            "sizes": {"widths": (width,)},
            "image_size": 8,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        }
        for name, width in (("teacher", 128), ("student", 32))
    }
    config.features.contrast_views, config.features.batch_size = 3, 200
    config.hasher.teacher_hidden = 24
    config.hasher.schedule.epochs, config.hasher.schedule.warmup_epochs = 1.0, 0.0
    config.hasher.schedule.checkpoint_every_epochs = 1.0
    config.clusters.counts, config.clusters.starts = (3, 5, 8, 10), 2
    config.student.rows, config.student.margins = ROWS, (0.5,)
    return config.lock()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, width in (("teacher", 128), ("student", 32)):
        net = make_backbone("mlp", classes=10, widths=(width,))
        pictures = np.zeros((1, 8, 8, 3), np.float32)
        save_variables(folder / f"{name}.safetensors", net.init(jax.random.key(0), pictures))
    return folder


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, weights):
    """Its workdir, its report, and of each frozen network the variables in memory with a copy made before any training."""
    workdir = tmp_path_factory.mktemp("run")
    frozen = {}

    def watched(run, name):
        inputs = open_inputs(run, name)
        frozen[name] = inputs.frozen.variables, jax.tree.map(np.array, inputs.frozen.variables)
        return inputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdhash.experiment.brcd_run.open_inputs", watched)
        report = run(small(weights), workdir, command="the command")
    return workdir, report, frozen


def test_every_row_is_scored_both_ways_over_both_seeds(finished_run):
    results = results_of(finished_run[1])
    rows = {row["name"]: row for row in results["rows"]}
    assert {"teacher", *ROWS} <= set(rows)
    assert {f"{name}, student's features" for name in ("LSH", "PCA", "ITQ", "spectral")} <= set(rows)
    for name in ROWS:
        row = rows[name]
        assert row["seeds"] == [0, 1]
        assert 0.1 < row["metrics"]["map@1000"] <= 1
        assert 0.1 < row["metrics"]["asymmetric map@1000"] <= 1
        assert row["deviation"]["map@1000"] > 0
        assert row["metrics"]["map@1000"] != row["metrics"]["asymmetric map@1000"]
    assert len({row["metrics"]["validation"] for name, row in rows.items() if name in ROWS}) == len(ROWS)
    assert "asymmetric map@1000" not in rows["teacher"]["metrics"]
    assert len(results["claims"]) == 6
    assert results["clusters"]["count"] in (3, 5, 8, 10)
    study = results["margins"]
    assert (study["seed"], study["study_margins"]) == (0, [0.5])
    assert 0 < study["study_kept"][0] < 1
    assert len(study["study_validation"]) == 1
    # what features are regressed to by is thrown away after training
    assert rows["feature"]["parameters"] == rows["none"]["parameters"] == rows["brcd"]["parameters"]
    assert rows["feature"]["multiply_adds"] == rows["none"]["multiply_adds"] > 10_000


def test_frozen_networks_are_the_same_after_all_training(finished_run):
    frozen = finished_run[2]
    assert set(frozen) == {"teacher", "student"}
    for after, before in frozen.values():
        assert jax.tree.leaves(before["params"])
        assert jax.tree.leaves(before["batch_stats"])
        jax.tree.map(np.testing.assert_array_equal, after, before)


def test_on_frozen_networks_only_heads_are_trained(finished_run):
    paths = list(finished_run[0].glob("seed*/*/model.safetensors"))
    assert {path.parent.name for path in paths} == {"teacher", *ROWS, "brcd_margin_0.5"}
    for path in paths:
        layers = ("hidden", "bits", "regressor") if path.parent.name == "feature" else ("hidden", "bits")
        assert set(load_file(path)) == {
            f"params/{layer}/{part}" for layer in layers for part in ("kernel", "bias")
        }


def test_exported_models_score_as_reported_also_against_their_teacher(finished_run, weights, tmp_path):
    workdir, report, _ = finished_run
    dataset, protocol = load_dataset("digits", None), load_protocol(workdir / "protocol")
    pictures, labels = dataset.images[np.arange(len(dataset))], dataset.labels
    codes, hashes = {}, {}
    for row in ("teacher", "brcd"):
        facts = export_run(workdir, tmp_path / row, row=row, seed=1, weights_dir=weights, onnx=False)
        codes[row] = load_model(tmp_path / row).encode_pictures(pictures)
        hashes[row] = facts.hash
    assert facts.searches == (hashes["brcd"], hashes["teacher"])
    said = facts.document["facts"]["metrics"]
    assert said == next(row for row in results_of(report)["rows"] if row["name"] == "brcd")["by_seed"][1]
    query, database = protocol.query, protocol.database
    for name, key in (("brcd", "map@1000"), ("teacher", "asymmetric map@1000")):
        sides = codes["brcd"][query], codes[name][database], labels[query], labels[database]
        assert mean_average_precision(*sides, 1000) == pytest.approx(said[key], abs=1e-4)


def test_report_shows_masks_and_clusters(finished_run):
    folder = finished_run[1].parent
    assert {"masks.png", "clusters.png", "training.png", "retrieved_1.png"} <= {
        path.name for path in folder.iterdir()
    }
    table = (folder / "table.md").read_text()
    assert "brcd_published" in table
    assert " ± " in table


def test_second_start_trains_nothing_again(finished_run, weights):
    workdir, report, _ = finished_run
    before = results_of(report)
    stamps = {path: path.stat().st_mtime_ns for path in workdir.rglob("model.safetensors")}
    assert len(stamps) == 2 * (1 + len(ROWS)) + 1
    run(small(weights), workdir, command="the command")
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("model.safetensors")} == stamps
    assert results_of(report)["rows"] == before["rows"]  # times included: nothing is measured again


def test_labels_of_queries_choose_nothing(tmp_path, weights, monkeypatch):
    """Only the scores of the queries change: no epoch, no validation score, no weight."""
    digits = load_dataset("digits", None)
    test = np.asarray(digits.splits["test"])
    labels = digits.labels.copy()
    labels[test] = labels[np.random.default_rng(0).permutation(test)]
    config = small(weights).unlock()
    config.seeds, config.student.rows, config.student.margins = (0,), ("brcd",), ()
    config.hasher.schedule.epochs = 3.0  # a checkpoint after each: there is something to choose
    found = {}
    for name, dataset in (("true", digits), ("permuted", dataclasses.replace(digits, labels=labels))):
        monkeypatch.setattr("kdhash.experiment.run.load_decoded", lambda *_, dataset=dataset, **__: dataset)
        rows = results_of(run(config.lock(), tmp_path / name))["rows"]
        found[name] = {row["name"]: row["metrics"] for row in rows}
    for row in ("teacher", "brcd"):
        true, permuted = (load_file(tmp_path / name / "seed0" / row / "model.safetensors") for name in found)
        jax.tree.map(np.testing.assert_array_equal, true, permuted)
        assert found["true"][row]["validation"] == found["permuted"][row]["validation"]
        assert found["true"][row]["map@1000"] > found["permuted"][row]["map@1000"] + 0.05


def test_two_different_views_are_drawn_and_all_data_follow_them():
    views = np.arange(5 * 4, dtype=np.float32).reshape(5, 4, 1)
    batch = {"views": views, "views_teacher_codes": views * 10, "cluster": np.arange(5)}
    seen = set()
    for seed in range(20):
        found = choose_views(4)(jax.random.split(jax.random.key(seed), 5), batch)
        assert set(found) == {"view_i", "view_j", "teacher_codes_i", "teacher_codes_j", "cluster"}
        assert (found["view_i"] != found["view_j"]).all()
        np.testing.assert_array_equal(found["teacher_codes_j"], 10 * found["view_j"])
        seen |= set(
            zip((found["view_i"] % 4).ravel().tolist(), (found["view_j"] % 4).ravel().tolist(), strict=True)
        )
    assert len(seen) == 12


def test_views_of_pictures_are_those_that_features_were_cached_of():
    pictures = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    places = np.array([3, 0, 5, 1, 2, 4])
    cached = np.stack([view_pictures(f"contrast{n}", np.arange(6), pictures) for n in (1, 2, 3)], axis=1)
    batch = {"image": pictures[places], "place": places, "views_seen": cached[places]}
    found = jax.jit(choose_views(3))(jax.random.split(jax.random.key(0), 6), batch)
    assert set(found) == {"view_i", "view_j", "seen_i", "seen_j"}
    for view in "ij":
        np.testing.assert_allclose(found[f"view_{view}"], found[f"seen_{view}"], atol=1e-5)


def test_both_networks_trained_from_scratch(tmp_path):
    """Pictures in, no frozen network, no labels: teacher and student end to end, over eight devices."""
    config = small(tmp_path).unlock()
    config.backbones = {
        name: {"arch": "mlp", "sizes": {"widths": widths}, "mean": (0.5,) * 3, "std": (0.5,) * 3}
        for name, widths in (("teacher", (64, 32)), ("student", (16,)))
    }
    config.student.rows, config.student.margins, config.seeds = ("brcd",), (), (0,)
    config.student.hidden = 0
    config.clusters.count = 3  # after one epoch there are few different codes
    results = results_of(run(config.lock(), tmp_path / "run"))
    rows = {row["name"]: row for row in results["rows"]}
    assert set(rows) == {"teacher", "brcd"}
    assert all(row["metrics"]["map@1000"] > 0.13 for row in rows.values())  # chance is 0.1
    assert rows["teacher"]["parameters"] > rows["brcd"]["parameters"] > 0
    assert (tmp_path / "run" / "seed0" / "brcd" / "model.safetensors").exists()


def test_a_claim_holds_only_beyond_the_spread_of_seeds():
    def row(name, score, spread):
        return {
            "name": name,
            "metrics": {"map@1000": score, "asymmetric map@1000": score},
            "deviation": {"map@1000": spread, "asymmetric map@1000": 0.001},
        }

    found = claims([row("none", 0.5, 0.02), row("brcd", 0.51, 0.001)])
    assert [claim["holds"] for claim in found] == [False, True]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hasher.base", "itq", "choose one of cibhash"),
        ("hasher.temperature", 0.0, "must be positive"),
        ("hasher.teacher_hidden", -5, "must not be negative"),
        ("hasher.kl_weight", -1.0, "must not be negative"),
        ("hasher.gamma", None, "give a number"),
        ("student.hidden", 2.5, "give a whole number"),
        ("clusters.starts", 0, "must be positive"),
        ("clusters.count", 2.5, "give their number"),
        ("clusters.count", 100_000, "asks for 100000 clusters of 1242 training pictures"),
        ("clusters.counts", (5, 10, 2000), "asks for 2000 clusters of 1242 training pictures"),
        ("hasher.schedule.batch_size", 5008, "there are 1242 training pictures"),
        ("student.margins", (0.5, 7.0), "must lie in [0, 1)"),
        ("student.forms.brcd.margin", -1.0, "must lie in [0, 1)"),
        ("student.forms.brcd.margin", None, "is missing; the kind 'brcd' needs it"),
        ("student.forms.brcd.mask", None, "is missing; the kind 'brcd' needs it"),
        ("student.forms.brcd.alpha", 7.0, "must lie in [0, 1]"),
        ("student.forms.brcd.alpha", "all", "give a number"),
        ("student.forms.brcd.weight", -1.0, "must not be negative"),
        (
            "student.forms.brcd.offset_positive",
            True,
            "choose from weight, mask, margin, remove_false_negatives",
        ),
        ("student.forms.brcd.published", 1, "give True or False"),
        ("student.forms.brcd.temperature", 0.3, "it is that of config.hasher; take it out"),
        ("student.forms.brcd.masks", 0.3, "they follow from 'mask' and 'margin'; take it out"),
        ("student.forms.kl.temperature", 0.0, "must be positive"),
        ("student.forms.kl.temperature", None, "is missing; the kind 'kl' needs it"),
        ("student.forms.kl.temprature", 4.0, "choose from weight, temperature"),
        ("student.forms.rkd.angel", 4.0, "choose from weight, distance, angle"),
        ("student.forms.rkd.angle", -4.0, "must not be negative"),
        ("student.forms.sp.temperature", 4.0, "choose from weight"),
        ("student.forms.feature.width", 4, "choose from weight"),
        ("student.forms.none.weight", 1.0, "no option of the kind 'none'; it has none"),
        ("student.forms.crd.items", 5000, "choose from weight, temperature"),
        ("seeds", (1, 1), "different numbers"),
        ("features.contrast_views", 1, "give 2 or more"),
        ("clusters.counts", (5, 3), "rising"),
        ("clusters.count", -1, "0 for the elbow"),
        ("student.rows", ("none", "magic"), "choose from brcd"),
        ("student.forms.brcd.mask", "best", "choose one of intended"),
        ("student.forms.kl.kind", "magic", "choose one of none, brcd, kl"),
        ("evaluate.ks", (0,), "must hold 1000"),
        ("hasher.schedule.batch_size", 100, "8 devices do not divide"),
        ("backbones.teacher.weights", "nowhere.pth", "no file"),
        ("backbones.student", {"arch": "mlp"}, "or 'arch' (one of"),
        ("backbones.teacher", FROM_SCRATCH, "needs a frozen teacher"),
    ],
)
def test_bad_field_is_one_clear_line_before_any_work(tmp_path, weights, field, value, message):
    config = small(weights)
    *path, last = field.split(".")
    part = config
    for name in path:
        part = part[name]
    with part.unlocked(), part.ignore_type():
        if value is None:
            del part[last]
        else:
            part[last] = value
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path / "run")
    assert message in str(error.value)
    assert f"config.{field.removesuffix('.kind')}" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["brcd_cifar10", "brcd_scratch", "brcd_scratch_full"])
def test_what_is_shipped_and_what_may_be(name, weights):
    config = load_config(name).unlock()
    config.dataset, config.protocol, config.validation_per_class = "digits", "holdout", 20
    if name == "brcd_cifar10":
        config.backbones = small(weights).backbones
        config.weights_dir = str(weights)
    config.student.forms.bare = ConfigDict({"kind": "sp"})  # weight 1
    config.student.forms.all = ConfigDict({"kind": "rkd", "weight": 0.0, "distance": 0, "angle": 2.0})
    config.hasher.teacher_hidden = 0
    check_config(config.lock(), devices=8)

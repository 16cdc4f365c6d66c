"""The whole river on handwritten digits, made small; then again, and with another config."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from kdhash.config import ConfigError, check_config, flat
from kdhash.data import load_dataset, load_protocol
from kdhash.data.write_tfds import encode_png, write_dataset
from kdhash.experiment import run as job
from kdhash.experiment.online_teacher import online_answer
from kdhash.experiment.run import open_run, run, train_dmth
from kdhash.experiment.teacher import head_outputs
from kdhash.experiment.workdir import begin, claim, fingerprint, finish, finished, keep_protocol
from kdhash.export import load_model
from kdhash.export.write import export_run
from kdhash.reproduce import robustness
from kdhash.retrieval import mean_average_precision

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load_config(name: str):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().lock()


def small():
    """The quickstart with little of everything; eight devices, as the test process has."""
    config = load_config("quickstart")
    config.bits = 16
    for part in ("pretrain", "teacher", "student"):
        config[part].schedule.epochs = 2.0
        config[part].schedule.warmup_epochs = 0.0
        config[part].schedule.checkpoint_every_epochs = 1.0
    config.evaluate.ks = (0, 100)
    config.teacher.rows = ("single", "mean", "attention")
    return config


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, run(small(), workdir, command="the command")


def results_of(report: Path) -> dict:
    return json.loads((report.parent / "results.json").read_text())


def test_every_row_of_the_comparison_is_there_and_scored(finished_run):
    results = results_of(finished_run[1])
    names = [row["name"] for row in results["rows"]]
    assert {"mlp", "convnet", "resnet8", "mean", "attention"} <= set(names)
    assert {"student, no transfer", "student, taught by attention"} <= set(names)
    assert {row["group"] for row in results["rows"]} == {"teacher", "fusion", "student", "float", "fitted"}
    for row in results["rows"]:
        assert 0.1 < row["metrics"]["map@all"] <= 1, row["name"]
        assert row["encode_ms"] > 0
        assert (row["group"] in ("float", "fitted")) or row["multiply_adds"] > 1000
    assert len(results["claims"]) == 5
    assert results["protocol"]["query"] + results["protocol"]["database"] == 1797


def test_report_stands_alone(finished_run):
    page = finished_run[1].read_text()
    assert "data:image/png;base64," in page
    assert "the command" in page
    assert (finished_run[1].parent / "table.md").exists()


def test_second_start_does_nothing_again_and_reports_the_same(finished_run):
    workdir, report = finished_run
    before = results_of(report)
    stamps = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.safetensors")}
    run(small(), workdir, command="the command")
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*.safetensors")} == stamps
    after = results_of(report)
    assert before["rows"] == after["rows"]


def test_an_exported_student_scores_as_reported(finished_run, tmp_path):
    workdir, report = finished_run
    facts = export_run(workdir, tmp_path / "model", onnx=False)
    dataset, protocol = load_dataset("digits", None), load_protocol(workdir / "protocol")
    codes = load_model(tmp_path / "model").encode_pictures(dataset.images[np.arange(len(dataset))])
    row = next(row for row in results_of(report)["rows"] if row["name"] == "student, taught by attention")
    assert facts.document["facts"]["metrics"] == row["metrics"]
    query, database, labels = protocol.query, protocol.database, dataset.labels
    found = mean_average_precision(codes[query], codes[database], labels[query], labels[database])
    assert found == pytest.approx(row["metrics"]["map@all"], abs=1e-4)


def test_a_head_on_pictures_says_what_it_says_on_cached_features(finished_run):
    this = open_run(small(), finished_run[0])
    trained = train_dmth(this)  # read from the workdir
    head, rows = trained.heads["attention"], np.arange(0, len(this.dataset), 50)
    cached = head_outputs(this, head, trained.features, "original", rows)
    answer = online_answer(this, head, trained.features, ["codes", "logits"])
    found = jax.jit(answer)(this.pictures(rows))
    assert set(found) == {"teacher_codes", "teacher_logits"}
    np.testing.assert_allclose(found["teacher_codes"], cached["codes"], atol=1e-4)
    np.testing.assert_allclose(found["teacher_logits"], cached["logits"], atol=1e-3)


def test_spoilt_queries_score_as_reported_where_they_are_clean(finished_run):
    measured = robustness.measure(small(), finished_run[0])
    reported = {row["name"]: row["metrics"]["map@all"] for row in results_of(finished_run[1])["rows"]}
    found = {row["name"]: row["metrics"] for row in measured["rows"]}
    for name in ("attention", "student, no transfer", "student, taught by attention"):
        assert found[name]["clean"][0] == pytest.approx(reported[name], abs=1e-3)
        assert list(found[name])[:4] == ["clean", "jpeg 75", "jpeg 50", "jpeg 25"]
        assert found[name]["occlusion 8"][0] < found[name]["clean"][0]  # nothing is left of eight pixels
    assert measured["best_single"] in reported
    assert measured["seconds"]["robustness"] > 0
    assert found["best single teacher"]["clean"][0] == pytest.approx(
        reported[measured["best_single"]], abs=1e-3
    )


def test_attention_weights_of_every_class_sum_to_one(finished_run):
    with np.load(finished_run[0] / "evaluate" / "arrays.npz") as arrays:
        shaped = [value for value in arrays.values() if value.shape == (10, 3)]
    assert any(np.allclose(value.sum(axis=1), 1, atol=1e-5) for value in shaped)


def test_workdir_of_another_config_is_refused_with_the_fields(finished_run):
    other = small()
    other.bits = 32
    other.student.weights.code = 3.0
    with pytest.raises(ConfigError, match=r"bits: 16 there, 32 now\n  student\.weights\.code"):
        run(other, finished_run[0])


def as_it_is(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


def test_data_that_have_changed_are_refused_and_nothing_is_touched(finished_run, monkeypatch):
    workdir = finished_run[0]
    digits = load_dataset("digits", None)
    fewer = digits.splits | {"test": digits.splits["test"][:-3]}
    changed = {
        "  data: .* there, 0ther there now$": {"fingerprint": "0ther there"},
        r"  query: (\d+) rows there, \d+ now": {"splits": fewer},
        "  train: as many rows, but other ones": {"ids": list(digits.ids)[::-1]},
    }
    before = as_it_is(workdir)
    for message, fields in changed.items():
        other = dataclasses.replace(digits, **fields)
        with monkeypatch.context() as patch:
            patch.setattr(job, "load_decoded", lambda *_, other=other, **__: other)
            with pytest.raises(ConfigError, match=f"(?s)choose a new --workdir.*\n{message}"):
                run(small(), workdir)
    assert as_it_is(workdir) == before


def test_a_damaged_split_is_named(tmp_path):
    dataset, protocol = job._data(small(), tmp_path / "run")
    keep_protocol(tmp_path, protocol)
    assert keep_protocol(tmp_path, protocol).checksum == protocol.checksum
    about = json.loads((tmp_path / "protocol.json").read_text())
    (tmp_path / "protocol.json").write_text(json.dumps(about | {"checksum": "0"}))
    with pytest.raises(ConfigError, match="damaged: .*protocol.npz has checksum"):
        keep_protocol(tmp_path, protocol)
    (tmp_path / "protocol.npz").unlink()
    with pytest.raises(ConfigError, match="damaged: no protocol at"):
        keep_protocol(tmp_path, protocol)
    (tmp_path / "protocol.json").unlink()  # a first start that was killed before it was done
    assert keep_protocol(tmp_path, protocol).checksum == protocol.checksum
    assert (tmp_path / "protocol.json").exists()


def test_moving_the_data_is_no_other_config(tmp_path):
    config = small()
    claim(tmp_path, config)
    config.data_dir = "elsewhere"
    claim(tmp_path, config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bits", 20, "multiple of 8"),
        ("mapping", "vmap", "choose 'jit' or 'pmap'"),
        ("protocol", "cifar10-9", "choose one of cifar10-1"),
        ("dataset", "nowhere", "config.data_dir"),
        ("student.schedule.batch_size", 100, "8 devices do not divide"),
        ("student.schedule.epochs", 0.0, "must be positive"),
        ("student.schedule.microbatches", 3, "use a batch_size that is a multiple of 24"),
        ("profile", -1, "how many steps of each training"),
        ("resident_mib", -1, "a whole number of MiB"),
        ("teacher.rows", ("single", "attention", "mode"), "choose from attention"),
        ("student.arch", "alexnet", "choose one of"),
        ("student.arch", "vgg", "no network 'vgg' with sizes"),
        ("teacher.objective", "softmax", "choose one of cross_entropy, dpsh"),
        ("student.teacher", "single", "choose one of attention"),
        ("evaluate.ks", (100,), "must hold 0"),
        ("teacher.forms.attention.heads", 5, "does not divide"),
        ("teacher.forms.mean.kind", "median", "choose one of mean"),
        ("teacher.validation_views", (), "give as many to validate with"),
        ("validation_per_class", 1, "at least 5 a class"),
        ("features.views", ("augment1",), "lacks 'original'"),
        ("seed", -1, "a whole number from 0"),
        ("student.online", "yes", "give True or False"),
    ],
)
def test_bad_field_is_one_clear_line_before_any_work(tmp_path, field, value, message):
    config = small()
    *path, last = field.split(".")
    part = config
    for name in path:
        part = part[name]
    with part.ignore_type():
        part[last] = value
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path / "run")
    assert message in str(error.value)
    assert f"config.{field}" in str(error.value) or field == "dataset"
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_pictures_sees_no_views_that_are_drawn_by_row():
    config = small()
    views = ("original", "augment1")
    config.features.views = config.teacher.validation_views = config.teacher.forms.attention.views = views
    check_config(config, devices=8)
    config.student.online = True
    with pytest.raises(
        ConfigError, match=r"config\.student\.online is True, but config\.teacher\.forms\.attention\.views"
    ):
        check_config(config, devices=8)


def test_missing_weights_are_named_with_the_place(tmp_path):
    config = load_config("dmth_cifar10")
    config.weights_dir = str(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.teachers\.resnet20\.weights: no file"):
        check_config(config, devices=8)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_is_complete_and_knows_its_command(path):
    config = load_config(path.stem)
    fields = flat(config)
    assert {"seed", "bits", "protocol", "evaluate.ks"} <= set(fields)
    assert any(field.endswith("schedule.epochs") for field in fields)
    assert all(value is not None for value in fields.values())
    assert "python -m kdhash.main" in path.read_text() or "launch/" in path.read_text()


def test_decoded_pictures_are_kept_beside_the_workdir(tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)

    def examples(split):
        for number in range(20):
            place = number + 20 * (split == "test")
            example = {"id": f"{split}{number}", "image": encode_png(pictures[place]), "label": number % 2}
            yield number, example

    write_dataset(
        tmp_path / "data",
        "tiny",
        "1.0.0",
        image_shape=(8, 8, 3),
        label_names={"label": ["a", "b"]},
        splits={split: examples(split) for split in ("train", "test")},
        about={},
    )
    config = small()
    config.dataset, config.data_dir, config.image_size = "tiny", str(tmp_path / "data"), 8
    config.protocol, config.validation_per_class = "holdout", 5
    first = job._data(config, tmp_path / "runs" / "a")
    monkeypatch.setattr("kdhash.data.decoded.load_dataset", None)
    second = job._data(config, tmp_path / "runs" / "b")
    assert first[1].checksum == second[1].checksum
    rows = np.arange(40)
    np.testing.assert_array_equal(second[0].images[rows], first[0].images[rows])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".data_cache"]
    config.data_cache_dir = "off"
    with pytest.raises(TypeError):  # reads anew, and cannot
        job._data(config, tmp_path / "runs" / "a")


def test_half_done_work_on_other_inputs_is_removed(tmp_path):
    folder = begin(tmp_path / "x", fingerprint("a"))
    (folder / "checkpoint").write_text("half")
    begin(folder, fingerprint("a"))
    assert (folder / "checkpoint").exists()
    begin(folder, fingerprint("b"))
    assert not (folder / "checkpoint").exists()
    finish(folder, fingerprint("b"), {"score": 1})
    assert finished(folder, fingerprint("b")) == {"score": 1}
    assert finished(folder, fingerprint("a")) is None


def test_a_run_refused_by_its_data_does_not_claim_the_workdir(tmp_path):
    config = small()
    config.validation_per_class = 1000
    with pytest.raises(ValueError, match="smallest class"):
        run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_same_river_under_pmap_and_with_two_views(tmp_path):
    config = small().unlock()
    config.mapping = "pmap"
    del config.teachers.resnet8  # two networks show as much
    config.evaluate.baselines = False
    config.features.views = ("original", "flip")
    config.teacher.validation_views = ("original", "flip")
    config.teacher.forms.attention.views = ("original", "flip")
    config.student.rows = ("fused",)
    config.teacher.rows = ("mean", "attention")
    results = results_of(run(config, tmp_path))
    rows = {row["name"]: row for row in results["rows"]}
    assert "student, taught by attention" in rows
    assert rows["attention"]["encode_ms"] == pytest.approx(2 * rows["mean"]["encode_ms"])

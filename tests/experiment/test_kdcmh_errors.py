"""What a KDCMH run cannot do is one clear line before any work, and before the workdir is claimed."""

import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from kdhash import config as fields
from kdhash import main as job
from kdhash.config import ConfigError, check_config
from kdhash.data import load_pairs, make_pair_protocol, pair_protocols
from kdhash.data.write_tfds import encode_png, write_dataset
from kdhash.experiment.check_pairs import check_pairs
from kdhash.experiment.run import run
from kdhash.models.backbones import make_backbone
from kdhash.teachers.registry import save_variables
from tests.experiment.test_run import load_config

DATABASE, QUERY = 260, 40
RANDOM = np.random.default_rng(0)
CLASSES = np.arange(DATABASE + QUERY) % 3


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with the pairs 'written' and the features 'ready', and one with a network with random weights."""
    folder, weights = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("weights")
    picture = encode_png(np.zeros((8, 8, 3), np.uint8))
    rows = [
        (i, {"id": str(i), "image": picture, "captions": [f"number {i}"]}) for i in range(DATABASE + QUERY)
    ]
    write_dataset(
        folder,
        "written",
        "1.0.0",
        image_shape=(8, 8, 3),
        label_names={},
        splits={"query": rows[:QUERY], "database": rows[QUERY:]},
        about={},
        text_lists=("captions",),
    )
    write_features(folder / "ready.npz")
    net = make_backbone("mlp", classes=10, widths=(4,))
    variables = net.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    save_variables(weights / "mlp.safetensors", variables)
    return folder, weights


def write_features(path, *, labelled=(True, True), image=None, text=None, labels=True):
    """`labelled`: whether queries, and whether the database, have labels."""
    image = RANDOM.random((DATABASE + QUERY, 6)) if image is None else image
    text = RANDOM.random((DATABASE + QUERY, 5)) if text is None else text
    arrays = {}
    splits = {"query": (slice(QUERY), labelled[0]), "database": (slice(QUERY, None), labelled[1])}
    for split, (rows, named) in splits.items():
        arrays |= {f"image_{split}": image[rows], f"text_{split}": text[rows]}
        arrays |= {f"label_{split}": (CLASSES[rows, None] == np.arange(3)) & named} if labels else {}
    np.savez(path, **arrays)


def small(places, dataset="written"):
    config = load_config("kdcmh_flickr8k" if dataset == "written" else "kdcmh_wikipedia").unlock()
    config.data_dir, config.weights_dir = map(str, places)
    config.dataset, config.image_size = dataset, 8 if dataset == "written" else 0
    config.train, config.validation = 0, 60
    for form in config.student.forms.values():
        if form.get("pairs"):
            form.pairs = 3000
        if form.kind == "jdsh":
            form.weights = (0.4, 0.3, 0.3)
    config.schedule.batch_size = 64
    if dataset == "written":
        made = {"arch": "mlp", "image_size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3}
        one = made | {"weights": "mlp.safetensors", "sizes": {"widths": (4,)}}
        config.images = {"teacher": dict(one), "student": dict(one)}
        for text in config.texts.values():
            text.words, text.vectors = 20, ""
    return config.lock()


def put(config, field, value):
    """Sets a field; None takes it out."""
    *path, last = field.split(".")
    part = config
    for name in path:
        part = part[name]
    with part.unlocked(), part.ignore_type():
        if value is None:
            del part[last]
        else:
            part[last] = value


def refused(config, folder):
    """The lines of the ConfigError; nothing may be left behind."""
    with pytest.raises(ConfigError) as error:
        run(config, folder / "run")
    assert not (folder / "run").exists()
    return str(error.value).splitlines()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("evaluate.ks", (0,), "must hold 50"),
        ("seeds", (), "different numbers"),
        ("protocol", "holdout", "choose one of pairs"),
        ("validation", 0, "hold out some hundreds"),
        ("validation", 20, "without labels"),
        ("validation", 400, "train is 0 (all that is not validation) and validation is 400; the database"),
        ("train", -1, "or 0 for all"),
        ("train", 240, "train is 240 and validation is 60; the database of 'written' has 260 rows"),
        ("images.teacher.weights", "nowhere.pth", "no file"),
        ("images.teacher.weights", None, "of a frozen network"),
        ("images.teacher", None, "both 'teacher' and 'student'"),
        ("images", ConfigDict(), "has pictures without ready features"),
        ("texts.student", None, "both 'teacher' and 'student'"),
        ("texts.other", ConfigDict({"words": 5, "vectors": ""}), "is unknown"),
        ("texts", ConfigDict(), "has texts without ready features"),
        ("texts.student.words", 0, "vocabulary"),
        ("texts.student.words", -1, "must not be negative"),
        ("texts.student.words", 2.5, "give a whole number"),
        ("texts.student", ConfigDict({"words": 5}), "'vectors', or 'weights'"),
        ("texts.student", ConfigDict({"weights": ""}), "of a frozen network"),
        ("texts.student", ConfigDict({"weights": "no_tower"}), "no file"),
        ("texts.student.vectors", "no.npz", "no file"),
        ("similarity.weights", (0.5, 0.5, 0.5), "sum to 1"),
        ("similarity.weights", (0.5, 0.5), "three shares"),
        ("similarity.weights", "all", "three shares"),
        ("similarity.weights", (1.5, -0.5, 0.0), "three shares"),
        ("similarity.k_left", 0.0, "must be positive"),
        ("similarity.k_right", -2.0, "must be positive"),
        ("similarity.mu", 0.0, "must be positive"),
        ("similarity.l1", -0.1, "must not be negative"),
        ("similarity.l2", None, "give a number"),
        ("teacher.intra", -0.1, "must not be negative"),
        ("teacher.text_hidden", -1, "must not be negative"),
        ("student.image_hidden", 2.5, "give a whole number"),
        ("student.rows", ("magic",), "choose from"),
        ("student.rows", (), "is empty"),
        ("student.rows", ("direct", "direct"), "each row once"),
        ("student.forms.teacher", ConfigDict({"kind": "ucch"}), "choose another one"),
        ("student.forms.ucch.kind", None, "choose one of kdcmh"),
        ("student.forms.ucch.kind", "magic", "choose one of kdcmh"),
        ("student.forms.ucch.margn", 0.2, "choose from alpha, temperature, margin, shift"),
        ("student.forms.ucch.temperature", 0.0, "must be positive"),
        ("student.forms.ucch.image_codes", 1.0, "no option"),
        ("student.forms.djsrh.beta", None, "is missing"),
        ("student.forms.djsrh.beta", "much", "give a number"),
        ("student.forms.djsrh.weights", (1.0, 0.0, 0.0), "no option"),
        ("student.forms.dsah.intra", 0.1, "no option"),
        ("student.forms.direct.l1", 0.2, "that of config.similarity"),
        ("student.forms.direct.similarity", 0.2, "fitted by the run"),
        ("student.forms.jdsh.mu", 1.4, "that of config.similarity"),
        ("student.forms.jdsh.weights", (0.4, 0.3, 0.4), "three shares"),
        ("student.forms.jdsh.weights", None, "is missing"),
        ("student.forms.kdcmh.pairs", None, "is missing"),
        ("student.forms.kdcmh.pairs", -1, "must not be negative"),
        ("student.forms.kdcmh.pairs", 0.5, "give a whole number"),
        ("student.forms.kdcmh.pairs", 200 * 199 + 1, "there are 39800 pairs"),
        ("student.forms.kdcmh.threshold", 0.9, "follows from 'pairs'"),
        ("student.forms.kdcmh.quantization", -0.1, "must not be negative"),
        ("student.forms.kdcmh.balance", float("nan"), "give a number"),
        ("student.forms.kdcmh.scale", -4.0, "must be positive"),
        ("schedule.batch_size", 60, "8 devices do not divide"),
        ("schedule.batch_size", 208, "there are 200 training rows"),
        ("schedule.epochs", 0.0, "must be positive"),
    ],
)
def test_bad_field_is_one_clear_line_before_any_work(tmp_path, places, field, value, message):
    config = small(places)
    put(config, field, value)
    (line,) = refused(config, tmp_path)
    assert message in line
    assert f"config.{field}" in line


def test_several_problems_are_a_line_each(tmp_path, places):
    config = small(places)
    put(config, "images", ConfigDict())
    put(config, "texts", ConfigDict())
    assert [line.split()[0] for line in refused(config, tmp_path)] == ["config.images", "config.texts"]


def test_what_may_be(places):
    config = small(places)
    for name in ("teacher", "student"):
        put(config, f"texts.{name}.words", 0)  # word vectors alone
        put(config, f"texts.{name}.vectors", "some.npz")
    put(config, "student.forms.kdcmh.scale", None)
    put(config, "teacher.image_hidden", 0)
    check_config(config, devices=8)
    for shipped in ("kdcmh_flickr8k", "kdcmh_wikipedia"):
        check_config(load_config(shipped), devices=8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labelled": (False, True)}, r"config.dataset: none of the 40 queries of 'odd' has a label"),
        ({"labelled": (True, False)}, r"config.validation is 60; none of these pairs has a label"),
        ({"image": np.ones((DATABASE + QUERY, 3))}, "config.dataset: features of images .* the same in all"),
        ({"text": np.ones((DATABASE + QUERY, 3))}, "config.dataset: features of texts .* the same in all"),
    ],
)
def test_bad_ready_features(tmp_path, arrays, message):
    write_features(tmp_path / "odd.npz", **arrays)
    with pytest.raises(ConfigError, match=message) as error:
        run(small((tmp_path, tmp_path), "odd"), tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_features_that_are_not_finite(tmp_path):
    # files with such are refused when they are read; other data may come
    write_features(tmp_path / "odd.npz")
    pairs = load_pairs("odd", tmp_path)
    pairs.text_features[7, 2] = np.nan
    protocol = make_pair_protocol("pairs", pairs, seed=0, validation=60)
    with pytest.raises(ConfigError, match="config.dataset: features of texts of 'odd' are not all finite"):
        check_pairs(small((tmp_path, tmp_path), "odd"), pairs, protocol)


class Began(Exception):
    """The run got past all checks."""


def test_ready_features_need_no_networks_words_or_labels(tmp_path, places, monkeypatch):
    def stop(this, command):
        raise Began

    monkeypatch.setattr("kdhash.experiment.run.run_kdcmh", stop)
    write_features(tmp_path / "bare.npz", labels=False)
    config = small((tmp_path, tmp_path), "bare")
    absent = {"weights": "not_there"}
    config.unlock().images = {"teacher": absent, "student": absent}
    config.texts = {name: {"words": 5, "vectors": "not_there.npz"} for name in ("teacher", "student")}
    with pytest.raises(Began):
        run(config.lock(), tmp_path / "run")
    with pytest.raises(Began):
        run(small(places), tmp_path / "other")


def test_missing_extra_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3".ljust(512) + b"\x89HDF\r\n\x1a\n")
    config = small((tmp_path, tmp_path), "a")
    put(config, "host_devices", 1)
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setattr(job, "_CONFIG", SimpleNamespace(value=config))
    monkeypatch.setattr(job, "_WORKDIR", SimpleNamespace(value=str(tmp_path / "run")))
    monkeypatch.setitem(flags.FLAGS.__dict__, "__flags_parsed", True)  # all others have their defaults
    monkeypatch.setattr(job.stopping, "listen", lambda *_: None)
    assert job.main(["kdhash"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kdhash: ")
    assert "pip install 'kdhash[mat]'" in line
    assert not (tmp_path / "run").exists()


def test_config_knows_the_protocols_of_pairs():
    # config may not import them: the rooms stay apart
    assert fields.PAIR_PROTOCOLS == pair_protocols.PAIR_NAMES


@pytest.mark.parametrize(
    ("rows", "forms", "message"),
    [
        ((), {}, "config.student.rows is empty"),
        (("none", "none"), {}, "each row once"),
        (("none",), {"teacher": {"kind": "none"}}, "config.student.forms.teacher: the name is taken"),
        (("none",), {"clusters": {"kind": "none"}}, "config.student.forms.clusters: the name is taken"),
    ],
)
def test_rows_of_brcd_are_checked_alike(rows, forms, message):
    config = load_config("brcd_scratch").unlock()
    config.student.rows = rows
    for name, form in forms.items():
        config.student.forms[name] = ConfigDict(form)
    with pytest.raises(ConfigError) as error:
        check_config(config, devices=8)
    assert message in str(error.value)

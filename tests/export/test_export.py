"""Model folders of DMTH, BRCD and KDCMH runs: every engine gives the trained network's bits, in any process, for any batch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from kdhash.data import TextFeatures
from kdhash.data.pictures import decode_picture
from kdhash.export import load_model, read_model
from kdhash.export.model import ENGINES
from kdhash.export.runs import read_student
from kdhash.export.write import export_run
from kdhash.methods.dmth import LossWeights, hash_student
from kdhash.models.backbones import make_backbone
from kdhash.models.hasher import Hasher
from kdhash.retrieval import pack_codes
from kdhash.teachers import tower_texts
from kdhash.teachers.registry import TextTeacher, load_teacher, load_variables
from tests.export.small_runs import FROM_SCRATCH, TEXTS, drawn, write_brcd, write_dmth, write_kdcmh
from tests.teachers.test_tokenizer import folder as tokenizer_folder  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[2]


def some_pictures(count, size=8):
    draw = np.random.default_rng(count)
    coarse = draw.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, size // 2, axis=1), size // 2, axis=2)


def head_of(state, prefix, features):
    """Logits of features, by hand."""
    x = features
    if f"{prefix}hidden/kernel" in state:
        x = jnp.maximum(x @ state[f"{prefix}hidden/kernel"] + state[f"{prefix}hidden/bias"], 0)
    return x @ state[f"{prefix}bits/kernel"] + state[f"{prefix}bits/bias"]


def frozen_features(run, weights, kind, spec, pictures):
    """Standardised features of a frozen network, as a run's cache has them."""
    net = load_teacher(kind, spec, weights_dir=weights, image_size=8, classes=None)
    features = net.apply(net.variables, jnp.asarray(pictures, jnp.float32) / 255)["features"]
    scales = load_file(run / "inputs" / kind / "scales.safetensors")
    return (features - scales["image_mean"]) / scales["image_deviation"]


def backbone_spec(run, part, kind):
    """Of a flat config.json."""
    config = json.loads((run / "config.json").read_text())
    prefix = f"{part}.{kind}."
    spec = {name.removeprefix(prefix): value for name, value in config.items() if name.startswith(prefix)}
    return spec | {"sizes": {"widths": tuple(spec.pop("sizes.widths"))}}


def check_all_engines(folder, expected):
    """`expected(pictures)` -> real-valued codes."""
    pictures = some_pictures(70)
    codes = pack_codes(np.asarray(jax.jit(expected)(pictures)))
    assert len(np.unique(codes, axis=0)) > 5  # that say something
    for engine in ENGINES:
        model = load_model(folder, engine=engine, batch_size=8)
        for count in (0, 1, 70):
            found = model.encode_pictures(pictures[:count])
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, codes[:count])


def test_dmth_student_without_its_teachers(dmth, tmp_path):
    facts = export_run(dmth, tmp_path / "model")
    method = hash_student(
        arch="convnet",
        sizes={"widths": (8, 8)},
        bits=16,
        classes=10,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        weights=LossWeights(),
    )
    example = {"image": jnp.zeros((1, 8, 8, 3))}
    template = jax.eval_shape(method.init, jax.random.key(0), example)
    variables = load_variables(dmth / "student" / "fused" / "model.safetensors", template)
    check_all_engines(
        tmp_path / "model",
        lambda pictures: method.encode(variables, pictures.astype(jnp.float32) / 255),
    )
    assert (facts.kind, facts.bits, facts.size, facts.searches) == ("image", 16, 8, (facts.hash,))
    names = set(load_file(tmp_path / "model" / "weights.safetensors"))
    assert not any("classifier" in name for name in names)
    assert facts.document["facts"]["metrics"] == {"map@all": 0.5, "map@100_min": 0.1}


def test_what_was_regressed_to_is_left_behind(tmp_path):
    run = write_dmth(tmp_path / "run", feature=1.0)
    facts = export_run(run, tmp_path / "model", onnx=False)
    assert not any("regressor" in name for name in load_file(tmp_path / "model" / "weights.safetensors"))
    assert {one["on"] for one in facts.document["checks"]} == {"random pictures", "pictures of the data set"}


@pytest.mark.parametrize("row", ["brcd", "teacher"])
def test_brcd_on_a_frozen_network(brcd, weights, tmp_path, row):
    facts = export_run(brcd, tmp_path / "model", row=row, seed=5, weights_dir=weights)
    kind = "teacher" if row == "teacher" else "student"
    spec = backbone_spec(brcd, "backbones", kind)
    state = load_file(brcd / "seed5" / row / "model.safetensors")
    check_all_engines(
        tmp_path / "model",
        lambda pictures: head_of(state, "params/", frozen_features(brcd, weights, kind, spec, pictures)),
    )
    assert facts.document["facts"]["seed"] == 5
    assert facts.document["facts"]["metrics"] == ({"map@1000": 0.5} if row == "brcd" else {})
    assert facts.document["facts"]["frozen"] == [f"{kind}.safetensors"]


def test_a_network_that_computes_in_bfloat16(tmp_path, weights):
    run = write_brcd(tmp_path / "run", weights, dtype="bfloat16")
    facts = export_run(run, tmp_path / "model", weights_dir=weights, alone=True)
    assert "computes in bfloat16" in facts.document["left_out"]["image.onnx"]
    single = export_run(write_brcd(tmp_path / "single", weights), tmp_path / "other", weights_dir=weights)
    assert facts.hash != single.hash  # the same weights, and other codes


def test_brcd_trained_from_scratch(tmp_path):
    run = write_brcd(tmp_path / "run", tmp_path, frozen=False)
    export_run(run, tmp_path / "model", weights_dir="nowhere")
    spec = FROM_SCRATCH | {"sizes": tuple(FROM_SCRATCH["sizes"].items())}
    model = Hasher(16, 0, **spec)
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    variables = load_variables(run / "seed3" / "brcd" / "model.safetensors", template)
    check_all_engines(
        tmp_path / "model",
        lambda pictures: model.apply(variables, pictures.astype(jnp.float32) / 255)["logits"],
    )


def test_queries_of_aligned_students_may_search_their_teachers_codes(brcd, weights, tmp_path):
    def read(row, **options):
        document = read_student(brcd, row=row, **{"weights_dir": weights} | options).document
        return document["hash"], document["searches"]

    teacher, its_searches = read("teacher")
    assert its_searches == [teacher]
    for row, aligned in (("brcd", True), ("kl", True), ("crd", True), ("none", False)):
        student, searches = read(row)
        assert searches == [student, teacher][: 1 + aligned]
    student, searches = read("brcd", seed=5)
    assert searches == [student, read("teacher", seed=5)[0]]
    assert searches[1] != teacher
    shutil.copy(weights / "student.safetensors", tmp_path)  # and not the teacher's
    student, searches = read("brcd", weights_dir=tmp_path, alone=True)
    assert searches == [student]
    with pytest.raises(FileNotFoundError, match=r"backbones\.teacher\.weights.*give --weights-dir"):
        read("brcd", weights_dir=tmp_path)


def test_kdcmh_hashes_pictures_and_texts(kdcmh, weights, tmp_path):
    facts = export_run(kdcmh, tmp_path / "model", weights_dir=weights)
    assert facts.kind == "image-text"
    state = load_file(kdcmh / "seed0" / "kdcmh" / "model.safetensors")
    spec = backbone_spec(kdcmh, "images", "student")
    check_all_engines(
        tmp_path / "model",
        lambda pictures: head_of(
            state, "params/image/", frozen_features(kdcmh, weights, "student", spec, pictures)
        ),
    )
    encoder = TextFeatures.load(kdcmh / "inputs" / "student" / "texts" / "encoder")
    texts = [*TEXTS, "", "nothing of that", *(" ".join(TEXTS[: i % 4]) for i in range(70))]
    expected = pack_codes(head_of(state, "params/text/", encoder.encode(texts)))
    assert len(np.unique(expected, axis=0)) > 4
    for engine in ENGINES:
        model = load_model(tmp_path / "model", engine=engine)
        np.testing.assert_array_equal(model.encode_texts(texts), expected)
        assert model.encode_texts([]).shape == (0, 2)
        with pytest.raises(ValueError, match="list of strings"):
            model.encode_texts("one string")


def test_kdcmh_with_a_text_tower(tmp_path, weights, tokenizer_folder, monkeypatch):  # noqa: F811
    (tokenizer_folder / "model.safetensors").write_bytes(b"")
    (tokenizer_folder / "config.json").write_text("{}")
    sizes = {"vocabulary": 40, "length": 8, "width": 16, "depth": 1, "heads": 2, "hidden": 24, "end": 30}
    sizes["projection"] = 16
    module = make_backbone("clip_text", **sizes)
    variables = drawn(module, np.zeros((1, 8), np.int32), seed=0)
    backbone = {"arch": "clip_text", "sizes": sizes, "dtype": "float32"}
    tower = TextTeacher("tower", module.apply, variables, 16, 8, "tower", 0, backbone)
    monkeypatch.setattr(tower_texts, "load_text_teacher", lambda *args, **options: tower)

    run = write_kdcmh(tmp_path / "run", weights, tower=str(tokenizer_folder))
    facts = export_run(run, tmp_path / "model", weights_dir=weights)
    assert "text.onnx" in facts.document["left_out"]
    texts = ["a cat", "dog", "cat dog cat", ""] * 20
    seen = tower_texts.TowerTexts("t", {"weights": str(tokenizer_folder)}).encode(texts)
    state = load_file(run / "seed0" / "kdcmh" / "model.safetensors")
    for engine in ("jax", "stablehlo"):
        codes = load_model(tmp_path / "model", engine=engine).encode_texts(texts)
        np.testing.assert_array_equal(codes, pack_codes(head_of(state, "params/text/", seen)))
    without = load_model(tmp_path / "model", engine="onnx")
    assert without.encode_pictures(some_pictures(3)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"no text\.onnx: there is no ONNX rule"):
        without.encode_texts(texts)


FRESH = """
import sys
import numpy as np
import kdhash.export.export_cli
from kdhash.export import load_model, read_model

folder, pictures = sys.argv[1], np.load(sys.argv[2])
assert read_model(folder).bits == 16
onnx = load_model(folder, engine="onnx").encode_pictures(pictures)
started = [name for name in ("jax", "flax", "tensorflow_datasets", "faiss", "pyarrow", "numba") if name in sys.modules]
assert not started, started
kdhash_modules = {name for name in sys.modules if name.startswith("kdhash")}
from jax import export

program = export.deserialize(bytearray(open(folder + "/image.stablehlo", "rb").read()))
assert program.platforms == ("cpu", "cuda", "tpu")
codes = np.asarray(program.call(pictures))
assert kdhash_modules == {name for name in sys.modules if name.startswith("kdhash")}
np.save(sys.argv[3], np.stack([onnx, codes]))
"""


def test_artefacts_run_in_a_fresh_process_and_onnx_without_jax(dmth, tmp_path):
    export_run(dmth, tmp_path / "model")
    pictures = some_pictures(5)
    np.save(tmp_path / "pictures.npy", pictures)
    arguments = [str(tmp_path / name) for name in ("model", "pictures.npy", "codes.npy")]
    done = subprocess.run([sys.executable, "-c", FRESH, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codes = load_model(tmp_path / "model").encode_pictures(pictures)
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), np.stack([codes, codes]))


def test_the_hash_is_that_of_what_decides_codes(dmth, tmp_path):
    first, again, other = (
        export_run(dmth, tmp_path / name, row=row, onnx=onnx)
        for name, row, onnx in (("a", "fused", None), ("b", "fused", False), ("c", "plain", False))
    )
    assert first.hash == again.hash != other.hash
    assert first.preprocessing == other.preprocessing
    shared = set(first.document["files"]) & set(again.document["files"])
    assert shared == {"weights.safetensors", "image.stablehlo"}
    assert all(first.document["files"][name] == again.document["files"][name] for name in shared)
    assert read_model(tmp_path / "a").document == first.document


def test_any_picture_file_is_fitted(dmth, tmp_path):
    export_run(dmth, tmp_path / "model", onnx=False)
    model = load_model(tmp_path / "model")
    wide = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    fitted = model.fit(tmp_path / "wide.png")
    np.testing.assert_array_equal(fitted, decode_picture(tmp_path / "wide.png", 8))
    np.testing.assert_array_equal(fitted, model.fit((tmp_path / "wide.png").read_bytes()))
    np.testing.assert_array_equal(fitted, model.fit(str(tmp_path / "wide.png")))
    assert model.encode_pictures(fitted[None]).shape == (1, 2)
    for bad in (fitted, fitted[None].astype(np.float32), some_pictures(1, 16)):
        with pytest.raises(ValueError, match=r"takes uint8 \[n, 8, 8, 3\], got"):
            model.encode_pictures(bad)
    with pytest.raises(ValueError, match="hashes pictures only"):
        model.encode_texts(["a dog"])

"""Features of all pictures: the same as asking the network directly, whatever the batches and devices."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from kdhash.data import load_dataset
from kdhash.data.stream import open_pictures
from kdhash.models.backbones import make_backbone
from kdhash.teachers import cache
from kdhash.teachers.extract import extract_features, fill_cache, fit_picture
from kdhash.teachers.preprocessing import Fitted, Preprocessing, preprocess
from kdhash.teachers.registry import Teacher, load_teacher, save_variables
from kdhash.training.mapping import data_mesh
from tests.teachers.extraction_run import SPEC


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    net = make_backbone("mlp", classes=10, widths=(8,))
    save_variables(folder / "m.safetensors", net.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)))
    return load_teacher("tiny", SPEC, weights_dir=folder, image_size=8, classes=10)


def extract(teacher, digits, folder, views=("original",), devices=8, batch_size=64):
    mesh = data_mesh(jax.devices()[:devices])
    return extract_features(teacher, digits, views, folder, mesh=mesh, batch_size=batch_size, shard_rows=500)


def test_equal_to_the_network_asked_directly(teacher, digits, tmp_path):
    features, seconds = extract(teacher, digits, tmp_path, ("original", "flip"))
    pictures = digits.images[np.arange(len(digits))].astype(np.float32) / 255
    expected = teacher.apply(teacher.variables, pictures)
    mirrored = teacher.apply(teacher.variables, pictures[:, :, ::-1])
    assert seconds > 0
    for name in ("features", "logits"):
        np.testing.assert_allclose(features["original"][name], expected[name], atol=1e-5)
        np.testing.assert_allclose(features["flip"][name], mirrored[name], atol=1e-5)


def test_second_time_computes_nothing(teacher, digits, tmp_path):
    first, _ = extract(teacher, digits, tmp_path)
    again, seconds = extract(teacher, digits, tmp_path)
    assert seconds == 0
    np.testing.assert_array_equal(first["original"]["features"], again["original"]["features"])


def test_augmented_view_depends_on_the_picture_alone(teacher, digits, tmp_path):
    one, _ = extract(teacher, digits, tmp_path / "a", ("augment1",), devices=1, batch_size=100)
    eight, _ = extract(teacher, digits, tmp_path / "b", ("augment1",), devices=8, batch_size=64)
    np.testing.assert_allclose(one["augment1"]["features"], eight["augment1"]["features"], atol=1e-4)
    original, _ = extract(teacher, digits, tmp_path / "a")
    assert np.abs(one["augment1"]["features"] - original["original"]["features"]).max() > 0.1


def test_bfloat16_is_near_and_has_a_cache_of_its_own(shared, tmp_path):
    def load(dtype):
        return load_teacher(
            "t",
            {"weights": "resnet20-12fca82f.th"},
            weights_dir=shared / "weights",
            image_size=32,
            classes=10,
            dtype=dtype,
        )

    with np.load(shared / "weights" / "resnet20_cifar10.expected.npz") as expected:
        pictures, features = expected["images"].astype(np.float32) / 255, expected["features"]
    exact, rounded = load("float32"), load("bfloat16")
    outputs = rounded.apply(rounded.variables, pictures)
    assert outputs["features"].dtype == outputs["logits"].dtype == np.float32
    assert 1e-4 < np.abs(outputs["features"] - features).max() < 0.05 * np.abs(features).max()
    assert exact.identity != rounded.identity
    with pytest.raises(ValueError, match="float32, bfloat16"):
        load("float16")


def test_shards_of_each_process_are_its_own(teacher, digits, tmp_path):
    def part(index, folder):
        mesh = data_mesh(jax.devices()[:2])
        return fill_cache(
            teacher,
            digits,
            ("original",),
            folder,
            mesh=mesh,
            batch_size=64,
            shard_rows=500,
            process_index=index,
            process_count=2,
        )[0]["original"]

    folder = part(1, tmp_path / "two")
    assert sorted(path.name for path in folder.glob("*.npz")) == ["00001.npz", "00003.npz"]
    part(0, tmp_path / "two")
    whole, _ = extract(teacher, digits, tmp_path / "one", devices=2)
    np.testing.assert_array_equal(cache.read(folder)["features"], whole["original"]["features"])


def test_a_picture_that_fails_is_raised_and_the_run_can_go_on(teacher, digits, tmp_path):
    class Broken:
        image_shape = digits.images.image_shape
        broken = True

        def __getitem__(self, rows):
            if self.broken and 900 in rows:
                raise ValueError("row 900 cannot be read")
            return digits.images[rows]

    images = Broken()
    part = type(digits)(**vars(digits) | {"images": images})
    with pytest.raises(ValueError, match="row 900"):
        extract(teacher, part, tmp_path)
    images.broken = False
    features, _ = extract(teacher, part, tmp_path)
    whole, _ = extract(teacher, digits, tmp_path / "whole")
    np.testing.assert_array_equal(features["original"]["features"], whole["original"]["features"])


@pytest.mark.parametrize(
    "how",
    [{}, {"resize": 11}, {"resize": 11, "cut": "round"}, {"resize": 11, "squash": True}],
    ids=["whole", "floor", "round", "squash"],
)
@pytest.mark.parametrize("side", [(20, 31), (31, 20), (8, 8), (11, 11), (5, 7), (60, 20)])
def test_pillow_on_the_host_equals_the_device(side, how):
    picture = np.random.default_rng(0).integers(0, 255, (*side, 3), dtype=np.uint8)
    wanted = Preprocessing(size=8, interpolation="bicubic", **how)
    on_host = preprocess(Fitted(fit_picture(picture, wanted)[None] / np.float32(255)), wanted)
    on_device = preprocess(picture[None] / np.float32(255), wanted)
    np.testing.assert_allclose(on_host, on_device, atol=1e-6)


def test_a_strip_that_would_fill_the_memory_is_refused():
    with pytest.raises(ValueError, match="once resized"):
        fit_picture(np.zeros((1, 3000, 3), np.uint8), Preprocessing(size=224, resize=256))


def test_a_folder_of_pictures_of_any_size(teacher, tmp_path):
    rng = np.random.default_rng(0)
    pictures = {}
    for number, side in enumerate([(8, 8), (20, 30), (9, 40), (100, 50), (8, 8)]):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures[path] = rng.integers(0, 255, (*side, 3), dtype=np.uint8)
        Image.fromarray(pictures[path]).save(path)
    (tmp_path / "pictures" / "a" / "5.jpg").write_bytes(b"no picture")
    (tmp_path / "pictures" / "notes.txt").write_text("passed over")

    def run(folder, **how):
        stream = open_pictures(tmp_path / "pictures", **how)
        mesh = data_mesh(jax.devices()[:1])
        return fill_cache(teacher, stream, ("original",), folder, mesh=mesh, batch_size=4, shard_rows=4)

    folder = run(tmp_path / "c")[0]["original"]
    wanted = [fit_picture(pictures[path], teacher.preprocessing) for path in sorted(pictures)]
    expected = teacher.apply(teacher.variables, np.stack(wanted) / np.float32(255))
    np.testing.assert_allclose(cache.read(folder)["features"], expected["features"], atol=1e-5)
    assert list(cache.skipped_rows(folder)) == [3]
    with pytest.raises(ValueError, match=r"a/5\.jpg"):
        run(tmp_path / "d", on_error="fail")


def test_pictures_of_any_size_are_resized_and_cut_once(tmp_path):
    wanted = Preprocessing(size=8, resize=11, cut="round")

    def apply(variables, pictures):
        seen = preprocess(pictures, wanted)
        return {"features": seen.reshape(len(seen), -1)}

    teacher = Teacher("t", apply, {}, 192, None, "identity", 0, wanted, {})
    pictures = []
    for number, side in enumerate([(8, 8), (11, 11), (20, 31)]):
        pictures.append(np.random.default_rng(number).integers(0, 255, (*side, 3), dtype=np.uint8))
        Image.fromarray(pictures[-1]).save(tmp_path / f"{number}.png")
    mesh = data_mesh(jax.devices()[:1])
    stream = open_pictures(tmp_path)
    folders, _ = fill_cache(
        teacher, stream, ("original",), tmp_path / "c", mesh=mesh, batch_size=2, shard_rows=4
    )
    features = cache.read(folders["original"])["features"]
    for feature, picture in zip(features, pictures, strict=True):
        expected = preprocess(picture[None] / np.float32(255), wanted)
        np.testing.assert_allclose(feature, expected.ravel(), atol=1e-5)


def test_progress_counts_every_row_once(teacher, digits, tmp_path):
    said = []
    mesh = data_mesh(jax.devices()[:1])
    fill_cache(
        teacher,
        digits,
        ("original",),
        tmp_path,
        mesh=mesh,
        batch_size=500,
        progress=lambda *facts: said.append(facts[:3]),
    )
    assert said == [("original", done, 1797) for done in (500, 1000, 1500, 1797)]
    identity = json.loads(next(tmp_path.glob("*/manifest.json")).read_text())["identity"]
    assert identity.keys() == {"teacher", "dataset", "rows", "view", "augment"}

"""Features of all pictures: the same as asking the network directly, whatever the batches and devices."""

import jax
import numpy as np
import pytest

from kdhash.data import load_dataset
from kdhash.models.backbones import make_backbone
from kdhash.teachers.extract import extract_features, view_pictures
from kdhash.teachers.registry import load_teacher, save_variables
from kdhash.training.mapping import data_mesh

SPEC = {
    "arch": "mlp",
    "sizes": {"widths": (8,)},
    "weights": "m.safetensors",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
}


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


def test_views():
    pictures = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    rows = np.arange(3)
    np.testing.assert_allclose(view_pictures("original", rows, pictures), pictures / 255, rtol=1e-6)
    first, second = (np.asarray(view_pictures(name, rows, pictures)) for name in ("augment1", "augment2"))
    assert np.abs(first - second).max() > 0.05
    assert first.min() >= 0
    assert first.max() <= 1
    with pytest.raises(ValueError, match="sideways"):
        view_pictures("sideways", rows, pictures)

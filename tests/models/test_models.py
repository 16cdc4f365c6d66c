"""Backbones, fusion and the student: shapes, invariants, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.models.backbones import make_backbone
from kdhash.models.fusion import Fusion, FusionTeacher
from kdhash.models.student import HashStudent

RNG = np.random.default_rng(0)
FEATURES = {
    "a": RNG.normal(size=(12, 6)).astype(np.float32),
    "b": RNG.normal(size=(12, 10)).astype(np.float32),
    "c": RNG.normal(size=(12, 6)).astype(np.float32),
}
PICTURES = RNG.random((2, 16, 16, 3), dtype=np.float32)


def fuse(kind, keys=None, features=FEATURES, **options):
    model = Fusion(kind=kind, width=8, **options)
    variables = model.init(jax.random.key(0), features)
    return model.apply(variables, features, keys)


@pytest.mark.parametrize("kind", ["mean", "concat", "attention"])
def test_weights_sum_to_one_and_are_uniform_where_nothing_is_chosen(kind):
    outputs = fuse(kind, heads=2 if kind == "attention" else 1)
    assert outputs["fused"].shape == (12, 8)
    np.testing.assert_allclose(outputs["attention"].sum(axis=1), 1, rtol=1e-5)
    if kind != "attention":
        np.testing.assert_allclose(outputs["attention"], 1 / 3, rtol=1e-6)


def test_high_temperature_makes_attention_the_mean():
    attention, mean = fuse("attention", temperature=1e6, heads=4), fuse("mean")
    np.testing.assert_allclose(attention["attention"], 1 / 3, atol=1e-4)
    np.testing.assert_allclose(attention["fused"], mean["fused"], atol=1e-4)


def test_attention_looks_at_each_image_alone():
    whole = fuse("attention", heads=2)["attention"]
    part = fuse("attention", heads=2, features={name: x[3:7] for name, x in FEATURES.items()})["attention"]
    np.testing.assert_allclose(whole[3:7], part, atol=1e-6)
    assert np.asarray(whole).std(axis=0).max() > 1e-3


def test_a_global_weight_is_the_same_for_all_images_and_starts_as_the_mean():
    model = Fusion(kind="global", width=8, heads=2)
    variables = model.init(jax.random.key(0), FEATURES)
    score = variables["params"]["score"]
    assert score.shape == (3, 2)
    np.testing.assert_allclose(model.apply(variables, FEATURES)["attention"], 1 / 3, rtol=1e-6)
    learned = {"params": variables["params"] | {"score": score.at[1].set(2.0).at[2, 0].set(1.0)}}
    outputs = model.apply(learned, FEATURES)
    weights = np.exp([[0, 2, 1], [0, 2, 0]]) / np.exp([[0, 2, 1], [0, 2, 0]]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["attention"], np.tile(weights.mean(axis=0), (12, 1)), rtol=1e-5)
    tokens = [
        np.asarray(Fusion("mean", 8).apply(variables, {name: x})["fused"]) for name, x in FEATURES.items()
    ]
    for head in (0, 1):
        part = slice(4 * head, 4 * head + 4)
        wanted = sum(w * token[:, part] for w, token in zip(weights[head], tokens, strict=True))
        np.testing.assert_allclose(outputs["fused"][:, part], wanted, atol=1e-5)


def test_teacher_dropout_leaves_at_least_one_and_only_in_training():
    keys = jax.random.split(jax.random.key(1), 12)
    whole = np.asarray(fuse("attention", None, teacher_dropout=0.6)["attention"])
    assert (whole > 0).all()
    dropped = np.asarray(fuse("attention", keys, teacher_dropout=0.6)["attention"])
    assert (dropped == 0).any()
    # What is left keeps its proportions: also where all three would have gone, and all three stay.
    kept = np.where(dropped > 0, whole, 0)
    np.testing.assert_allclose(dropped, kept / kept.sum(axis=1, keepdims=True), rtol=1e-4)
    always = np.asarray(fuse("attention", keys, teacher_dropout=0.999)["attention"])
    np.testing.assert_allclose(always, whole, rtol=1e-4)


def test_fusion_teacher_gives_codes_and_logits_under_jit():
    model = FusionTeacher({"kind": "attention", "width": 8}, bits=16, classes=5)
    variables = model.init(jax.random.key(0), FEATURES)
    outputs = jax.jit(model.apply)(variables, FEATURES)
    assert outputs["codes"].shape == (12, 16)
    assert np.abs(outputs["codes"]).max() < 1
    assert outputs["logits"].shape == (12, 5)


@pytest.mark.parametrize(
    ("arch", "sizes", "width"),
    [
        ("convnet", {"widths": (4, 8)}, 8),
        ("mlp", {"widths": (9,)}, 9),
    ],
)
def test_backbones_give_features_and_logits(arch, sizes, width):
    net = make_backbone(arch, classes=3, **sizes)
    variables = net.init(jax.random.key(0), PICTURES)
    outputs = net.apply(variables, PICTURES)
    assert outputs["features"].shape == (2, width)
    assert outputs["logits"].shape == (2, 3)
    assert "logits" not in make_backbone(arch, **sizes).init_with_output(jax.random.key(0), PICTURES)[0]


def test_spatial_map_pools_to_the_features():
    net = make_backbone("resnet_cifar", depth=14, width=4)
    outputs, _ = net.init_with_output(jax.random.key(0), PICTURES)
    assert outputs["spatial"].shape == (2, 4, 4, 16)
    np.testing.assert_allclose(outputs["spatial"].mean(axis=(1, 2)), outputs["features"], rtol=1e-5)


def test_student_regresses_only_where_asked():
    def outputs(regress_to):
        model = HashStudent("mlp", {"widths": (7,)}, 16, 3, (0.5,) * 3, (0.5,) * 3, regress_to)
        return model.init_with_output(jax.random.key(0), PICTURES)[0]

    assert outputs(5)["fused"].shape == (2, 5)
    assert "fused" not in outputs(0)
    assert outputs(0)["codes"].shape == (2, 16)


def test_pictures_too_small_for_the_student_are_an_error():
    vgg = HashStudent("vgg", {"depth": 11, "widths": (4,) * 5}, 16, 10, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match="nothing is left of a picture's map"):
        jax.eval_shape(vgg.init, jax.random.key(0), PICTURES)


def test_errors_name_what_is_known():
    with pytest.raises(ValueError, match="known are .*convnet, .*squeezenet"):
        make_backbone("transformer")
    with pytest.raises(ValueError, match="arch 'mlp'.*depth"):
        make_backbone("mlp", depth=3)
    with pytest.raises(ValueError, match="6n \\+ 2"):
        make_backbone("resnet_cifar", depth=10).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

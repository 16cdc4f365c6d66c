"""DMTH: what each term sees, and what learns from what."""

import jax
import numpy as np
import pytest

from kdhash.losses import hinton_loss
from kdhash.methods.dmth import (
    OBJECTIVES,
    LossWeights,
    class_centers,
    fusion_outputs,
    fusion_teacher,
    hash_student,
)

RNG = np.random.default_rng(0)
FUSION = {"kind": "attention", "width": 8, "heads": 2}


def features():
    return {name: RNG.normal(size=(10, 6)).astype(np.float32) for name in ("a", "b")}


BATCH = {"features": features(), "label": RNG.integers(0, 3, 10)}
KEYS = jax.random.split(jax.random.key(0), 10)


def teacher():
    return fusion_teacher(
        bits=16, classes=3, fusion=FUSION, weights=LossWeights(quantization=0.1, balance=0.1)
    )


def test_every_part_of_the_teacher_learns():
    method = teacher()
    variables = method.init(jax.random.key(0), BATCH)

    def value(params):
        outputs, _ = method.forward({"params": params}, BATCH, KEYS, train=True)
        return method.loss(outputs, BATCH)[0]

    for path, leaf in jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(value))(variables["params"]))[0]:
        assert np.abs(leaf).max() > 0, path


def test_terms_sum_to_the_loss_and_zero_weights_switch_them_off():
    method = teacher()
    variables = method.init(jax.random.key(0), BATCH)
    loss, terms = method.loss(method.forward(variables, BATCH, KEYS, train=True)[0], BATCH)
    assert set(terms) == {"cross_entropy", "quantization", "balance"}
    assert float(loss) == pytest.approx(sum(float(value) for value in terms.values()), rel=1e-6)
    plain = fusion_teacher(bits=16, classes=3, fusion=FUSION, weights=LossWeights())
    _, terms = plain.loss(plain.forward(variables, BATCH, KEYS, train=False)[0], BATCH)
    assert set(terms) == {"cross_entropy"}


def test_encode_and_outputs_agree():
    method = teacher()
    variables = method.init(jax.random.key(0), BATCH)
    outputs = fusion_outputs(variables, BATCH["features"], bits=16, classes=3, fusion=FUSION)
    np.testing.assert_array_equal(method.encode(variables, BATCH["features"]), outputs["codes"])


def student(objective="cross_entropy", **weights):
    return hash_student(
        arch="mlp",
        sizes={"widths": (12,)},
        bits=16,
        classes=3,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        weights=LossWeights(**weights),
        teacher_width=8,
        objective=objective,
    )


def student_batch():
    return {
        "image": RNG.random((10, 4, 4, 3), dtype=np.float32),
        "label": RNG.integers(0, 3, 10),
        "teacher_codes": np.tanh(RNG.normal(size=(10, 16))).astype(np.float32),
        "teacher_fused": RNG.normal(size=(10, 8)).astype(np.float32),
        "teacher_logits": RNG.normal(size=(10, 3)).astype(np.float32),
    }


def test_student_terms_follow_their_weights():
    batch = student_batch()
    for weights, names in (
        ({}, {"cross_entropy"}),
        ({"code": 1.0}, {"cross_entropy", "code"}),
        ({"relation": 1.0, "feature": 1.0}, {"cross_entropy", "relation", "feature"}),
        ({"logits": 1.0}, {"cross_entropy", "logits"}),
    ):
        method = student(**weights)
        variables = method.init(jax.random.key(0), batch)
        outputs, stats = method.forward(variables, batch, KEYS, train=True)
        assert set(method.loss(outputs, batch)[1]) == names
        assert stats  # batch norm has moved


def test_student_without_transfer_needs_no_teacher():
    batch = {name: value for name, value in student_batch().items() if not name.startswith("teacher")}
    method = student(quantization=0.1)
    variables = method.init(jax.random.key(0), batch)
    outputs, _ = method.forward(variables, batch, KEYS, train=True)
    assert np.isfinite(method.loss(outputs, batch)[0])
    assert method.encode(variables, batch["image"]).shape == (10, 16)


def test_the_logit_term_is_hintons():
    batch = student_batch()
    method = student(logits=0.5)
    outputs, _ = method.forward(method.init(jax.random.key(0), batch), batch, KEYS, train=True)
    wanted = hinton_loss(
        outputs["logits"], batch["teacher_logits"], batch["label"], temperature=4.0, alpha=1.0
    )
    assert float(method.loss(outputs, batch)[1]["logits"]) == pytest.approx(0.5 * float(wanted), rel=1e-5)


def test_doubling_a_weight_doubles_its_term():
    batch = student_batch()
    values = []
    for weight in (1.0, 2.0):
        method = student(code=weight)
        variables = method.init(jax.random.key(0), batch)
        values.append(
            float(method.loss(method.forward(variables, batch, KEYS, train=True)[0], batch)[1]["code"])
        )
    assert values[1] == pytest.approx(2 * values[0], rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_teacher_and_student(objective):
    weights = LossWeights(quantization=0.1)
    batch = student_batch()
    for method, data in (
        (fusion_teacher(bits=16, classes=3, fusion=FUSION, weights=weights, objective=objective), BATCH),
        (student(objective, quantization=0.1), batch),
    ):
        variables = method.init(jax.random.key(0), data)

        @jax.jit
        def value(params, method=method, data=data, variables=variables):
            outputs, _ = method.forward(variables | {"params": params}, data, KEYS, train=True)
            return method.loss(outputs, data)

        gradients, terms = jax.grad(value, has_aux=True)(variables["params"])
        assert set(terms) == {objective, "quantization"}
        assert np.isfinite(terms[objective])
        kernel = gradients["head"]["hash"]["kernel"]
        assert np.isfinite(kernel).all()
        assert np.abs(kernel).max() > 0
        classifier = np.abs(gradients["head"]["classifier"]["kernel"]).max()
        assert (classifier > 0) == (objective in ("cross_entropy", "greedyhash", "bihalf"))


def test_centers_of_classes_where_there_is_no_hadamard_matrix():
    for classes, bits in ((10, 16), (10, 24), (100, 16)):
        centers = np.asarray(class_centers(classes, bits))
        assert set(np.unique(centers)) == {-1, 1}
        assert len(np.unique(centers, axis=0)) == classes

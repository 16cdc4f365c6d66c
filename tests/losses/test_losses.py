"""Closed forms, invariances and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdhash import losses

RNG = np.random.default_rng(0)
S = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
T = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2, 3, 0, 1])

PER_ITEM = {
    "cross_entropy": lambda s, t, **k: losses.cross_entropy(s, LABELS[: len(s)], **k),
    "kl_divergence": lambda s, t, **k: losses.kl_divergence(s, t, temperature=3.0, **k),
    "soft_cross_entropy": lambda s, t, **k: losses.soft_cross_entropy(s, t, temperature=3.0, **k),
    "hinton_loss": lambda s, t, **k: losses.hinton_loss(
        s, t, LABELS[: len(s)], temperature=3.0, alpha=0.5, **k
    ),
    "cosine_distance": losses.cosine_distance,
    "code_distillation": losses.code_distillation,
    "squared_error": losses.squared_error,
    "feature_regression": losses.feature_regression,
    "smooth_l1": losses.smooth_l1,
    "attention_entropy": lambda s, t, **k: losses.attention_entropy(jax.nn.softmax(s), **k),
}
PAIRS = {
    "relational_distillation": losses.relational_distillation,
    "info_nce": lambda s, t: losses.info_nce(s, t, temperature=0.5),
}
CODES = {
    "quantization": lambda s, t: losses.quantization(s),
    "balance": lambda s, t: losses.balance(s),
}
WITHOUT_TEACHER = {"cross_entropy", "attention_entropy"}


def test_hand_numbers():
    codes = jnp.array([[1.0, -1.0], [0.5, -1.0]])
    assert losses.quantization(codes) == pytest.approx(0.0625)
    assert losses.balance(codes) == pytest.approx((0.75**2 + 1) / 2)
    assert losses.cross_entropy(jnp.zeros((3, 10)), jnp.arange(3)) == pytest.approx(np.log(10))
    assert losses.cosine_distance(codes, -codes) == pytest.approx(2)
    assert losses.info_nce(jnp.eye(4), jnp.eye(4), temperature=1.0) == pytest.approx(np.log(np.e + 3) - 1)
    assert losses.relational_distillation(jnp.eye(2), jnp.ones((2, 3))) == pytest.approx(0.5)
    assert losses.smooth_l1(jnp.array([[0.5, 3.0]]), jnp.zeros((1, 2))) == pytest.approx((0.125 + 2.5) / 2)


def test_directions_of_info_nce():
    # Both teachers are the first one's direction: rows of cosines are [1, 1] and [0, 0], columns [1, 0] twice.
    student, teacher = jnp.eye(2), jnp.array([[1.0, 0.0], [2.0, 0.0]])
    nce = {
        way: losses.info_nce(student, teacher, temperature=0.5, direction=way)
        for way in ("student", "teacher", "both")
    }
    rows, columns = np.log(2), np.mean([np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))])
    assert nce["student"] == pytest.approx(rows)
    assert nce["teacher"] == pytest.approx(columns)
    assert nce["both"] == pytest.approx((rows + columns) / 2)


def test_attention_entropy():
    weights = jnp.array([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    value, gradient = jax.value_and_grad(losses.attention_entropy)(weights)
    assert value == pytest.approx(np.log(4) / 2)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[0, 1:], 0)


@pytest.mark.parametrize("loss", [losses.kl_divergence, losses.soft_cross_entropy])
def test_a_class_that_both_rule_out_adds_nothing(loss):
    out = jnp.full((6, 1), -jnp.inf)
    value, gradient = jax.value_and_grad(loss)(jnp.hstack([S, out]), jnp.hstack([T, out]), temperature=3.0)
    np.testing.assert_allclose(value, loss(S, T, temperature=3.0), rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", PER_ITEM | PAIRS | CODES)
def test_gradients_by_differences(name):
    with jax.enable_x64(True):
        loss = (PER_ITEM | PAIRS | CODES)[name]
        teacher = jnp.asarray(T, jnp.float64)
        check_grads(lambda s: loss(s, teacher), (jnp.asarray(S, jnp.float64),), order=1, modes=["rev"])


@pytest.mark.parametrize("name", sorted((PER_ITEM | PAIRS).keys() - WITHOUT_TEACHER))
def test_no_gradient_reaches_the_teacher(name):
    gradient = jax.grad((PER_ITEM | PAIRS)[name], argnums=1)(S, T)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", PER_ITEM)
def test_leaving_items_out_equals_the_rest_alone(name):
    keep = jnp.array([True, True, True, True, False, False])
    value_and_gradient = jax.jit(jax.value_and_grad(PER_ITEM[name]))
    value, gradient = value_and_gradient(S, T, where=keep)
    some, some_gradient = value_and_gradient(S[:4], T[:4])
    np.testing.assert_allclose(value, some, rtol=1e-6)
    np.testing.assert_allclose(gradient[:4], some_gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(gradient[4:], 0)
    assert value_and_gradient(S, T, where=jnp.zeros(6, bool))[0] == 0


@pytest.mark.parametrize("name", ["relational_distillation", "info_nce"])
def test_losses_over_pairs_do_not_depend_on_the_order(name):
    order = RNG.permutation(6)
    np.testing.assert_allclose(PAIRS[name](S[order], T[order]), PAIRS[name](S, T), rtol=1e-5)


def test_flipping_a_bit_everywhere_changes_no_relation():
    flip = jnp.array([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(
        losses.relational_distillation(S * flip, T), losses.relational_distillation(S, T), rtol=1e-5
    )


@pytest.mark.parametrize("name", PER_ITEM | PAIRS | CODES)
def test_values_and_gradients_stay_finite(name):
    value_and_gradient = jax.jit(jax.value_and_grad((PER_ITEM | PAIRS | CODES)[name]))
    for scale in (0.0, 1e-20, 1e-9, 1e-6, 1e4, 1e10, 1e15):
        value, gradient = value_and_gradient(scale * S, scale * T)
        assert np.isfinite(value), scale
        assert np.isfinite(gradient).all(), scale


def test_zero_vectors_have_cosine_and_gradient_zero():
    zero = jnp.zeros((1, 4))
    assert losses.cosine(zero, S[:1])[0] == 0
    np.testing.assert_array_equal(jax.grad(lambda x: losses.cosine(x, S[:1]).sum())(zero), 0)


def test_cosines_are_multiplied_in_full_float32():
    # Accelerators would round to TF32 or bfloat16, a processor does not: only the program itself shows it here.
    assert "Precision.HIGHEST" in str(jax.make_jaxpr(losses.cosine_matrix)(S, T))


def test_unknown_direction():
    with pytest.raises(ValueError, match="direction"):
        losses.info_nce(S, T, temperature=1.0, direction="up")

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
}
PAIRS = {
    "relational_distillation": losses.relational_distillation,
    "info_nce": lambda s, t: losses.info_nce(s, t, temperature=0.5),
}


def test_hand_numbers():
    codes = jnp.array([[1.0, -1.0], [0.5, -1.0]])
    assert losses.quantization(codes) == pytest.approx(0.0625)
    assert losses.balance(codes) == pytest.approx((0.75**2 + 1) / 2)
    assert losses.cross_entropy(jnp.zeros((3, 10)), jnp.arange(3)) == pytest.approx(np.log(10))
    assert losses.cosine_distance(codes, -codes) == pytest.approx(2)
    assert losses.info_nce(jnp.eye(4), jnp.eye(4), temperature=1.0) == pytest.approx(np.log(np.e + 3) - 1)
    assert losses.relational_distillation(jnp.eye(2), jnp.ones((2, 3))) == pytest.approx(0.5)
    assert losses.smooth_l1(jnp.array([[0.5, 3.0]]), jnp.zeros((1, 2))) == pytest.approx((0.125 + 2.5) / 2)


@pytest.mark.parametrize("name", PER_ITEM | PAIRS)
def test_gradients_by_differences(name):
    with jax.enable_x64(True):
        loss = (PER_ITEM | PAIRS)[name]
        teacher = jnp.asarray(T, jnp.float64)
        check_grads(lambda s: loss(s, teacher), (jnp.asarray(S, jnp.float64),), order=1, modes=["rev"])


@pytest.mark.parametrize("name", PER_ITEM | PAIRS)
def test_no_gradient_reaches_the_teacher(name):
    if name != "cross_entropy":
        gradient = jax.grad((PER_ITEM | PAIRS)[name], argnums=1)(S, T)
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", PER_ITEM)
def test_leaving_items_out_equals_the_rest_alone(name):
    keep = jnp.array([True, True, True, True, False, False])
    np.testing.assert_allclose(PER_ITEM[name](S, T, where=keep), PER_ITEM[name](S[:4], T[:4]), rtol=1e-6)
    assert PER_ITEM[name](S, T, where=jnp.zeros(6, bool)) == 0


@pytest.mark.parametrize("name", ["relational_distillation", "info_nce"])
def test_losses_over_pairs_do_not_depend_on_the_order(name):
    order = RNG.permutation(6)
    np.testing.assert_allclose(PAIRS[name](S[order], T[order]), PAIRS[name](S, T), rtol=1e-5)


def test_flipping_a_bit_everywhere_changes_no_relation():
    flip = jnp.array([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(
        losses.relational_distillation(S * flip, T), losses.relational_distillation(S, T), rtol=1e-5
    )


@pytest.mark.parametrize("name", PER_ITEM | PAIRS)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_values_and_gradients_stay_finite(name, scale):
    loss = (PER_ITEM | PAIRS)[name]
    value, gradient = jax.value_and_grad(loss)(scale * S, scale * T)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_zero_vectors_have_cosine_and_gradient_zero():
    zero = jnp.zeros((1, 4))
    assert losses.cosine(zero, S[:1])[0] == 0
    np.testing.assert_array_equal(jax.grad(lambda x: losses.cosine(x, S[:1]).sum())(zero), 0)


def test_unknown_direction():
    with pytest.raises(ValueError, match="direction"):
        losses.info_nce(S, T, temperature=1.0, direction="up")

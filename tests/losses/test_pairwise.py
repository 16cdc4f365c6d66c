"""Every pairwise value and gradient of hashing_losses.npz: float32 and float64, vmapped, over eight devices; extremes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from tests.losses.vectors import case_of, close, over_eight_devices, values_and_gradients

CASES = ("c0", "c1", "c2", "c3", "c4")
LOSSES = (losses.dpsh, losses.dhn, losses.dsh, losses.hashnet)


def losses_of(o):
    """{the oracle's name: its loss as a function of u}."""
    labels, bank = o["labels"], (jnp.asarray(o["bank_u"]), jnp.asarray(o["bank_labels"]))

    def against_bank(loss, u, squash=lambda u: u):
        return loss(u, labels, memory=losses.write_memory(bank, o["index"], squash(u), labels))

    fire_dpsh = partial(losses.dpsh, balanced=True)
    fire_hashnet = partial(losses.hashnet, slope=1.0)
    return {
        "dpsh_batch": lambda u: losses.dpsh(u, labels, two_sided=False),
        "dpsh_bank": partial(against_bank, losses.dpsh),
        "dhn_batch": lambda u: losses.dhn(u, labels, two_sided=False),
        "dhn_bank": partial(against_bank, losses.dhn),
        "dsh_batch": lambda u: losses.dsh(u, labels, two_sided=False),
        "dsh_bank": partial(against_bank, losses.dsh),
        "hashnet_scale1": lambda u: losses.hashnet(u, labels),
        "hashnet_scale2": lambda u: losses.hashnet(u, labels, scale=2.0),
        "fire_dpsh_batch": lambda u: fire_dpsh(u, labels),
        "fire_dpsh_bank": partial(against_bank, fire_dpsh),
        "fire_hashnet_batch": lambda u: fire_hashnet(u, labels),
        "fire_hashnet_bank": partial(against_bank, fire_hashnet, squash=jnp.tanh),
    }


@pytest.fixture(scope="module")
def vectors(oracle):
    return oracle("hashing_losses")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(vectors, case, dtype):
    with jax.enable_x64(dtype == np.float64):
        o = case_of(vectors, case, dtype)
        results = values_and_gradients(losses_of(o))(o["u"])
    for name, (value, gradient) in results.items():
        assert gradient.dtype == dtype
        close(value, o[f"{name}.loss"])
        close(gradient, o[f"{name}.grad_u"])


def test_plain_and_under_vmap_the_same(vectors):
    o = case_of(vectors, "c0")
    u = o["u"]
    plain = losses_of(o)
    for name in ("dpsh_batch", "dhn_bank", "dsh_bank", "hashnet_scale2"):
        close(plain[name](jnp.asarray(u)), o[f"{name}.loss"])
    results = jax.vmap(values_and_gradients(losses_of(o)))(np.stack([2 * u, u, u[::-1]]))
    for name, (value, gradient) in results.items():
        close(value[1], o[f"{name}.loss"])
        close(gradient[1], o[f"{name}.grad_u"])
        assert abs(value[1] - value[2]) > 1e-4


def test_over_eight_devices_the_global_value_and_gradient(vectors):
    o = case_of(vectors, "c1")
    spread = {key: over_eight_devices(o[key]) for key in ("u", "labels", "index", "bank_u", "bank_labels")}
    results = jax.jit(lambda s: values_and_gradients(losses_of(s))(s["u"]))(spread)
    for name, (value, gradient) in results.items():
        assert len(gradient.sharding.device_set) == 8
        close(value, o[f"{name}.loss"])
        close(gradient, o[f"{name}.grad_u"])


def test_hand_numbers():
    codes, labels = jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.eye(2)
    own, other = np.log(1 + np.exp(-1)), np.log(2)  # theta is 1 with oneself, 0 with the other
    assert losses.dpsh(codes, labels) == pytest.approx((own + other) / 2)
    assert losses.dpsh(codes, labels, balanced=True) == pytest.approx(own + other)
    assert losses.dhn(codes, labels) == pytest.approx((own + other) / 2)
    assert losses.dsh(codes, labels) == 0
    assert losses.dsh(codes, jnp.ones((2, 1))) == pytest.approx(1)  # half of 4 for half of the pairs
    assert losses.dsh(0.5 * codes, labels, quantization_weight=1.0) == pytest.approx(0.75 + 0.5)


def test_memory_takes_the_rows_of_the_batch_and_no_gradient():
    u, labels = jnp.full((2, 4), 3.0), jnp.array([[0, 1], [0, 1]])
    memory = losses.write_memory((jnp.zeros((5, 4)), jnp.ones((5, 2), int)), jnp.array([4, 1]), u, labels)
    np.testing.assert_array_equal(memory[0][:, 0], [0, 3, 0, 0, 3])
    np.testing.assert_array_equal(memory[1][:, 0], [1, 0, 1, 1, 0])
    gradient = jax.jit(
        jax.grad(lambda bank: sum(loss(u, labels, memory=(bank, memory[1])) for loss in LOSSES))
    )
    np.testing.assert_array_equal(gradient(memory[0]), 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_two_sided_is_the_gradient_of_the_value_and_twice_the_one_sided(vectors, loss):
    with jax.enable_x64(True):
        o = case_of(vectors, "c3", np.float64)
        u, step = o["u"], 1e-6 * o["h"]
        if loss is not losses.hashnet:
            loss = partial(loss, quantization_weight=0.0)
        loss = partial(loss, labels=o["labels"])
        functions = {"both": loss, "one": partial(loss, two_sided=False)}
        (value, both), (same_value, one) = values_and_gradients(functions)(u).values()
        assert value == same_value
        np.testing.assert_allclose(both, 2 * one, rtol=1e-9, atol=1e-12)
        values = jax.jit(jax.vmap(loss))(np.stack([u + step, u - step]))
        np.testing.assert_allclose((values[0] - values[1]) / 2, np.sum(both * step), rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("balanced", [False, True])
def test_values_and_gradients_stay_finite(vectors, loss, balanced):
    o = case_of(vectors, "c0")
    equal, alone = np.ones((8, 1)), np.eye(8)
    function = jax.jit(jax.value_and_grad(partial(loss, balanced=balanced)))
    for labels in (equal, alone, np.zeros((8, 1))):  # all pairs similar; none but self-pairs; none at all
        for u in (0 * o["u"], 1e-20 * o["u"], np.ones_like(o["u"]), 1e4 * o["u"], 1e10 * o["u"]):
            value, gradient = function(u, labels)
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()


def test_many_common_labels_do_not_overflow():
    labels = np.ones((3, 256), np.int8)
    assert losses.share_a_label(labels, labels).all()
    assert not losses.share_a_label(labels, 0 * labels).any()


def test_inner_products_are_multiplied_in_full_float32():
    assert "Precision.HIGHEST" in str(jax.make_jaxpr(losses.dpsh)(jnp.ones((2, 4)), jnp.eye(2)))

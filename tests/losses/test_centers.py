"""Every value and gradient of hashing_losses.npz about centres and classifiers: float32 and float64, vmapped, eight devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from tests.losses.vectors import case_of, close, over_eight_devices, values_and_gradients

CASES = ("c0", "c1", "c2", "c3", "c4")
U = jnp.array([[0.5, -2.0], [1.5, 0.1]])


def losses_of(o):
    """{the oracle's name: its loss as a function of u}."""
    labels, centers = o["labels"], o["centers"]
    bits = centers.shape[1]
    by_item = {"labels": labels, "centers": centers, "ties": 2.0 * o["tie_center01"] - 1}
    ortho = partial(losses.orthohash, labels=labels, centers=centers)
    found = {
        "csq": partial(losses.csq, **by_item),
        "fire_csq": partial(losses.csq, quantization_weight=1e-3, **by_item),
        "dpn": partial(losses.dpn, **by_item),
        "dpn_ternary": lambda u: losses.dpn(losses.ternary(u), **by_item),
        "fire_dpn": lambda u: bits * losses.dpn(u, labels, centers, every_class=True, penalty=0.1 / bits),
        "orthocos": ortho,
        "orthocos_quant": partial(ortho, margin=0.2, quantization_weight=0.5),
        "orthoarc": partial(ortho, margin=0.2, margin_on="angle"),
        "fire_greedyhash": lambda u: losses.greedyhash(
            u, labels, o["classifier_w"], o["classifier_b"], quantization_weight=1.0
        ),
    }
    if not o["multi_label"]:
        found["greedyhash"] = lambda u: losses.greedyhash(u, labels, o["classifier_w"])
    return found


def assert_close(name, value, gradient, o):
    # In float32 the README allows 1e-3 for the gradients of csq; from logits they are as exact as the others.
    close(value, o[f"{name}.loss"])
    close(gradient, o.get(f"{name}.grad_u", np.zeros_like(o["u"])))


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
        assert_close(name, value, gradient, o)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_classifier(vectors, case, dtype):
    with jax.enable_x64(dtype == np.float64):
        o = case_of(vectors, case, dtype)
        fire = partial(losses.greedyhash, quantization_weight=1.0)
        weights, bias = o["classifier_w"], o["classifier_b"]
        of_weights = jax.jit(jax.grad(fire, argnums=(2, 3)))(o["u"], o["labels"], weights, bias)
        close(of_weights[0], o["fire_greedyhash.grad_w"])
        close(of_weights[1], o["fire_greedyhash.grad_b"])
        assert ("greedyhash.grad_w" in o) == (not o["multi_label"])
        if not o["multi_label"]:
            gradient = jax.jit(jax.grad(losses.greedyhash, argnums=2))(o["u"], o["labels"], weights)
            close(gradient, o["greedyhash.grad_w"])


def test_centers_of_classes_and_items(vectors):
    for case in CASES:
        o = case_of(vectors, case)
        items = losses.item_centers(o["labels"], o["centers"], ties=2.0 * o["tie_center01"] - 1)
        np.testing.assert_array_equal(items, o["csq.item_centers"])
        if "hadamard_centers" in o:
            expected = o["hadamard_centers"]
            np.testing.assert_array_equal(losses.hadamard_centers(*expected.shape), expected)


def test_hadamard_centers_are_orthogonal_or_opposite():
    centers = losses.hadamard_centers(32, 16)
    np.testing.assert_array_equal(
        centers @ centers.T, 16 * np.kron([[1, -1], [-1, 1]], np.eye(16, dtype=int))
    )
    for classes, bits in ((4, 48), (33, 16), (1, 0)):
        with pytest.raises(ValueError, match="Hadamard"):
            losses.hadamard_centers(classes, bits)


def test_ties_and_items_without_a_label():
    centers, labels = jnp.array([[1, 1], [1, -1]]), jnp.array([[1, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(losses.item_centers(labels, centers), [[1, 1], [1, 1], [1, 1]])
    np.testing.assert_array_equal(
        losses.item_centers(labels, centers, ties=jnp.array([1, -1])), [[1, 1], [1, -1], [1, -1]]
    )
    logits = jnp.array([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]])
    expected = (np.log(1 + np.e) + np.log(2) + 0) / 3
    assert losses.label_cross_entropy(logits, labels) == pytest.approx(expected)


def test_plain_and_under_vmap_the_same(vectors):
    o = case_of(vectors, "c0")
    u, functions = o["u"], losses_of(o)
    for name in ("csq", "fire_dpn", "orthoarc", "fire_greedyhash"):
        close(functions[name](jnp.asarray(u)), o[f"{name}.loss"])
    results = jax.vmap(values_and_gradients(functions))(np.stack([2 * u, u, u[::-1]]))
    for name, (values, gradients) in results.items():
        assert_close(name, values[1], gradients[1], o)
        assert abs(values[1] - values[2]) > 1e-4


def test_over_eight_devices_the_global_value_and_gradient(vectors):
    o = case_of(vectors, "c2")  # several labels
    spread = {"u": over_eight_devices(o["u"]), "labels": over_eight_devices(o["labels"])}
    results = jax.jit(lambda s: values_and_gradients(losses_of(o | s))(s["u"]))(spread)
    for name, (value, gradient) in results.items():
        if name != "dpn_ternary":  # whose gradient is a constant 0
            assert len(gradient.sharding.device_set) == 8
        assert_close(name, value, gradient, o)


def test_values_and_gradients_stay_finite(vectors):
    o = case_of(vectors, "c0")
    function = values_and_gradients(losses_of(o))
    centers = np.asarray(losses.item_centers(o["labels"], o["centers"]))
    for u in (0 * o["u"], 1e-20 * o["u"], centers, -centers, 1e4 * o["u"], 1e10 * o["u"]):
        for name, (value, gradient) in function(u).items():
            assert np.isfinite(value), name
            assert np.isfinite(gradient).all(), name


def test_centers_are_constants(vectors):
    o = case_of(vectors, "c0")
    centers = o["centers"].astype(np.float32)

    def total(centers):
        return sum(loss(o["u"], o["labels"], centers) for loss in (losses.csq, losses.dpn, losses.orthohash))

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(centers), 0)


def test_hand_numbers():
    labels, centers = jnp.eye(2), jnp.array([[1.0, -1.0], [1.0, 1.0]])
    assert losses.dpn(U, labels, centers) == pytest.approx((0.5 + 0 + 0 + 0.9) / 4)
    assert losses.dpn(U, labels, centers, margin=2.0) == pytest.approx((1.5 + 0 + 0.5 + 1.9) / 4)
    assert losses.dpn(0 * U, labels, centers, quantization_weight=1.0) == 2
    np.testing.assert_array_equal(losses.ternary(U), [[0, -1], [1, 0]])
    assert losses.csq(0 * U, labels, centers, quantization_weight=0.0) == pytest.approx(np.log(2))
    assert losses.orthohash(centers, labels, centers, margin=0.0, scale=1.0) == pytest.approx(
        np.log(1 + np.exp(-1))
    )


def test_unknown_margin():
    with pytest.raises(ValueError, match="margin_on"):
        losses.orthohash(U, jnp.eye(2), jnp.ones((2, 2)), margin_on="length")

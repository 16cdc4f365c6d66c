"""Every unsupervised value and gradient of hashing_losses.npz: float32 and float64, vmapped, over eight devices; extremes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from tests.losses.vectors import case_of, close, over_eight_devices, values_and_gradients

CASES = ("c0", "c1", "c2", "c3", "c4")
STRUCTURES = ("s0", "s1", "s2", "s3", "s4")


def losses_of(o):
    """{the oracle's name: its loss as a function of all rows of h}."""
    features, even = o["features"], len(o["features"]) // 2 * 2
    greedy = losses.greedyhash_unsupervised
    return {
        "fire_bihalf": partial(losses.bihalf, features=features),
        "fire_greedyhash_uns": partial(greedy, features=features),
        "bihalf_even": lambda h: losses.bihalf(h[:even], features[:even]),
        "greedyhash_uns_even": lambda h: greedy(h[:even], features[:even]),
    }


def structure_of(features):
    distances = losses.cosine_distances(features)
    fit = losses.fit_half_gaussians(distances)
    return {
        "distance": distances,
        "histogram": losses.distance_histogram(distances)[0],
        "fit": fit,
        "thresholds": fit.thresholds(),
        "S": losses.similarity_structure(distances, fit),
    }


@pytest.fixture(scope="module")
def vectors(oracle):
    return oracle("hashing_losses")


def assert_close(name, value, gradient, o):
    expected = o[f"{name}.grad_h"]
    close(value, o[f"{name}.loss"])
    close(gradient[: len(expected)], expected)


def assert_structure(found, o):
    np.testing.assert_array_equal(found["histogram"], o["histogram"])
    np.testing.assert_array_equal(found["S"], o["S"])
    close(found["distance"], o["distance"])
    fit = found["fit"]
    # The mirrored halves' means are the mode.
    for actual, name in zip(
        (fit.mode, fit.mode, fit.mode, fit.left_std, fit.right_std, *found["thresholds"]),
        ("mode_left_edge", "l_mean", "r_mean", "l_std", "r_std", "threshold_similar", "threshold_dissimilar"),
        strict=True,
    ):
        close(
            actual, o[name], absolute=2e-7
        )  # a threshold is a difference: of rounding that of 1, whatever its own size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(vectors, case, dtype):
    with jax.enable_x64(dtype == np.float64):
        o = case_of(vectors, case, dtype)
        results = values_and_gradients(losses_of(o))(o["h"])
    for name, (value, gradient) in results.items():
        assert gradient.dtype == dtype
        assert_close(name, value, gradient, o)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_bihalf_codes_and_their_own_gradient(vectors, case, dtype):
    with jax.enable_x64(dtype == np.float64):
        o = case_of(vectors, case, dtype)
        codes, backward = jax.vjp(jax.jit(losses.bihalf_codes), o["h"])
        np.testing.assert_array_equal(codes, o["bihalf.codes"])
        close(backward(jnp.asarray(o["bihalf.upstream"]))[0], o["bihalf.upstream_grad_h"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", STRUCTURES)
def test_similarity_structure_and_ssdh(vectors, case, dtype):
    with jax.enable_x64(dtype == np.float64):
        o = case_of(vectors, case, dtype)
        found = jax.jit(structure_of)(o["features"])
        assert_structure(found, o)
        sub = o["sub_index"]
        function = jax.jit(jax.value_and_grad(losses.ssdh))
        results = {
            "ssdh": function(o["h"], found["S"]),
            "ssdh_sub": function(o["h"][sub], found["S"][sub][:, sub]),
        }
    for name, (value, gradient) in results.items():
        assert gradient.dtype == dtype
        assert_close(name, value, gradient, o)


def test_plain_and_under_vmap_the_same(vectors):
    o, functions = case_of(vectors, "c3"), losses_of(case_of(vectors, "c3"))
    h = o["h"]
    for name, loss in functions.items():
        close(loss(jnp.asarray(h)), o[f"{name}.loss"])
    results = jax.vmap(values_and_gradients(functions))(np.stack([2 * h, h, h[::-1]]))
    for name, (values, gradients) in results.items():
        assert_close(name, values[1], gradients[1], o)
        assert abs(values[1] - values[2]) > 1e-4
    o = case_of(vectors, "s0")
    x = o["features"]
    found = jax.jit(jax.vmap(structure_of))(np.stack([x + 1, x, x[::-1]]))
    assert_structure(jax.tree.map(lambda leaf: leaf[1], found), o)
    assert found["fit"].mode[0] != found["fit"].mode[1]


def test_over_eight_devices_the_global_value_and_gradient(vectors):
    o = case_of(vectors, "c1")
    spread = {key: over_eight_devices(o[key]) for key in ("h", "features")}
    results = jax.jit(lambda s: values_and_gradients(losses_of(s))(s["h"]))(spread)
    for name, (value, gradient) in results.items():
        assert len(gradient.sharding.device_set) == 8
        assert_close(name, value, gradient, o)
    o = case_of(vectors, "s2")
    found = jax.jit(structure_of)(over_eight_devices(o["features"]))
    assert len(found["S"].sharding.device_set) == 8
    assert_structure(found, o)
    function = jax.jit(jax.value_and_grad(losses.ssdh))
    assert_close("ssdh", *function(over_eight_devices(o["h"]), over_eight_devices(o["S"] * 1.0)), o)


def test_values_and_gradients_stay_finite(vectors):
    o = case_of(vectors, "c1")
    h = o["h"]
    for features in (o["features"], np.ones_like(o["features"]), 0 * o["features"]):
        similarity = losses.similarity_structure(
            *(structure_of(features)[key] for key in ("distance", "fit"))
        )
        assert np.isfinite(similarity).all()
        functions = losses_of({"features": features}) | {"ssdh": partial(losses.ssdh, similarity=similarity)}
        function = values_and_gradients(functions)
        for outputs in (0 * h, 1e-20 * h, np.sign(h), 1e4 * h, 1e10 * h):
            for name, (value, gradient) in function(outputs).items():
                assert np.isfinite(value), name
                assert np.isfinite(gradient).all(), name


def test_bihalf_splits_equal_entries_by_row():
    codes = losses.bihalf_codes(jnp.array([[0.0, 1.0], [0.0, 3.0], [0.0, 3.0], [0.0, 3.0], [0.0, 2.0]]))
    np.testing.assert_array_equal(codes, [[1, -1], [1, 1], [-1, 1], [-1, -1], [-1, -1]])


def test_half_gaussians_of_a_hand_made_sample():
    fit = losses.fit_half_gaussians(jnp.array([0.205, 0.415, 0.415, 0.705, 0.905, 1.5]))
    assert fit.mode == pytest.approx(0.41)
    assert fit.left_std == pytest.approx(0.205, rel=1e-4)
    assert fit.right_std == pytest.approx(
        np.sqrt(np.mean(np.square([5e-3, 5e-3, 0.295, 0.495, 1.09]))), rel=1e-4
    )
    near, far = fit.thresholds(widths=0.5)
    assert near == pytest.approx(0.41 - 0.1025, rel=1e-4)
    assert far > 0.41
    one_sided = losses.fit_half_gaussians(jnp.full(4, 0.005))  # nothing to the left of the mode, -1e-8
    assert one_sided.left_std == 0


def test_no_gradient_reaches_features_or_similarity(vectors):
    o = case_of(vectors, "c0")

    def total(features, similarity):
        found = losses.bihalf(o["h"], features) + losses.greedyhash_unsupervised(o["h"], features)
        found += losses.fit_half_gaussians(losses.cosine_distances(features)).left_std
        return found + losses.ssdh(o["h"], similarity)

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(o["features"], jnp.eye(8))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_one_row_has_no_pair():
    with pytest.raises(ValueError, match="no pair"):
        losses.bihalf(jnp.ones((1, 4)), jnp.ones((1, 4)))

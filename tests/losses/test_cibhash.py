"""Every value and gradient of cibhash.npz: jitted, in float32 and float64; vmapped; over eight devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from tests.losses.vectors import case_of, close, over_eight_devices

CASES = ("c0", "c1", "c2", "c3")
LOSSES = {  # name of the oracle -> its inputs, gradients, and the function of both views
    "ntxent_codes": ("z", lambda i, j, tau, weight: losses.nt_xent(i, j, temperature=tau)),
    "ntxent_real": ("logits", lambda i, j, tau, weight: losses.nt_xent(i, j, temperature=tau)),
    "contrast": (
        "logits",
        lambda i, j, tau, weight: losses.cibhash_loss(i, j, temperature=tau, kl_weight=0.0)[0],
    ),
    "kl": ("logits", lambda i, j, tau, weight: (losses.bernoulli_kl(i, j) + losses.bernoulli_kl(j, i)) / 2),
    "full": (
        "logits",
        lambda i, j, tau, weight: losses.cibhash_loss(i, j, temperature=tau, kl_weight=weight)[0],
    ),
}


@pytest.fixture(scope="module")
def vectors(oracle):
    return oracle("cibhash")


def results(o, dtype):
    def both(inputs):
        return {
            name: jax.value_and_grad(
                partial(loss, tau=float(o["tau"]), weight=float(o["kl_weight"])), argnums=(0, 1)
            )(inputs[f"{kind}_i"], inputs[f"{kind}_j"])
            for name, (kind, loss) in LOSSES.items()
        }

    keys = ("logits_i", "logits_j", "z_i", "z_j")
    return jax.jit(both)({key: jnp.asarray(o[key], dtype) for key in keys})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", [32, 64])
def test_values_and_gradients(vectors, case, bits):
    o = case_of(vectors, case)
    relative, absolute = (2e-5, 1e-7) if bits == 32 else (1e-9, 1e-12)
    with jax.enable_x64(bits == 64):
        for name, (value, gradients) in results(o, f"float{bits}").items():
            close(value, o[f"{name}.loss"], relative, absolute)
            for view, gradient in zip("ij", gradients, strict=True):
                kind = LOSSES[name][0]
                close(gradient, o[f"{name}.grad_{kind}_{view}"], relative, absolute)


@pytest.mark.parametrize("case", CASES)
def test_parts_of_the_kl(vectors, case):
    o = case_of(vectors, case)
    close(losses.bernoulli_kl(o["logits_i"], o["logits_j"]), o["kl.ij"], 2e-5, 1e-7)
    close(losses.bernoulli_kl(o["logits_j"], o["logits_i"]), o["kl.ji"], 2e-5, 1e-7)


def test_terms_add_up_and_codes_are_signs(vectors):
    o = case_of(vectors, "c0")
    total, terms = losses.cibhash_loss(o["logits_i"], o["logits_j"])
    assert set(terms) == {"contrast", "kl"}
    np.testing.assert_allclose(sum(terms.values()), total, rtol=1e-6)
    codes = losses.straight_through_sign(jnp.asarray([-3.0, -0.0, 0.0, 1e-30, 7.0]))
    np.testing.assert_array_equal(codes, [-1, 1, 1, 1, 1])


def test_under_vmap_and_over_eight_devices(vectors):
    o = case_of(vectors, "c1")
    loss = jax.jit(jax.value_and_grad(lambda i, j: losses.cibhash_loss(i, j)[0]))
    value, gradient = loss(over_eight_devices(o["logits_i"]), over_eight_devices(o["logits_j"]))
    close(value, o["full.loss"], 2e-5, 1e-7)
    close(gradient, o["full.grad_logits_i"], 2e-5, 1e-7)
    i, j = (jnp.stack([2 * o[key], o[key]]) for key in ("logits_i", "logits_j"))
    values = jax.jit(jax.vmap(lambda i, j: losses.cibhash_loss(i, j)[0]))(i, j)
    close(values[1], o["full.loss"], 2e-5, 1e-7)
    assert abs(values[0] - values[1]) > 1e-5


def test_probabilities_that_round_to_one_are_finite_under_jit():
    logits = jnp.linspace(-100, 100, 4001, dtype=jnp.float32).reshape(-1, 1)
    for other in (logits, -logits, 0 * logits, logits[::-1] / 7):
        value, gradient = jax.jit(jax.value_and_grad(losses.bernoulli_kl))(logits, other)
        assert np.isfinite(value)
        assert value >= -1e-6
        assert np.isfinite(gradient).all()


def test_saturated_and_equal_logits_have_finite_gradients():
    logits = jnp.concatenate([jnp.full((2, 4), 200.0), jnp.full((2, 4), -200.0), jnp.zeros((1, 4))])
    for loss in (losses.nt_xent, losses.bernoulli_kl):
        extra = {"temperature": 0.3} if loss is losses.nt_xent else {}
        gradient = jax.jit(jax.grad(partial(loss, **extra)))(logits, -logits)
        assert np.isfinite(gradient).all()

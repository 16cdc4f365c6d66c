"""Every value and gradient of generic_kd.npz, in float32 and float64, plain, jitted, vmapped and over eight devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kdhash import losses

CASES = ("c0", "c1", "c2", "c3")


def logit_loss(name, o):
    """The oracle's loss on logits as a function of the student alone."""
    teacher, labels, T = o["teacher_logits"], o["labels"], float(o["T"])
    classes = teacher.shape[1]
    kl = partial(losses.kl_divergence, teacher_logits=teacher, temperature=T)
    return {
        "kl_batchmean": kl,
        "kl_batchmean_T2": lambda s: T**2 * kl(s),
        "kl_mean": lambda s: kl(s) / classes,
        "kl_mean_T2": lambda s: T**2 * kl(s) / classes,
        "soft_ce": partial(losses.soft_cross_entropy, teacher_logits=teacher, temperature=T),
        "ce": partial(losses.cross_entropy, labels=labels),
        "hinton_mix": partial(
            losses.hinton_loss, teacher_logits=teacher, labels=labels, temperature=T, alpha=float(o["alpha"])
        ),
    }[name]


def feature_loss(name, o):
    """The oracle's loss on features as a function of the student alone."""
    teacher, tau = o["teacher_feat"], float(o["tau"])
    width = teacher.shape[1]
    nce = partial(losses.info_nce, teacher=teacher, temperature=tau)
    return {
        "infonce_s2t": partial(nce, direction="student"),
        "infonce_t2s": partial(nce, direction="teacher"),
        "infonce_sym": nce,
        "cosine": partial(losses.cosine_distance, teacher=teacher),
        "mse_mean": partial(losses.squared_error, teacher=teacher),
        "mse_sum_per_item": lambda s: width * losses.squared_error(s, teacher),
        "mse_normalized": partial(losses.feature_regression, teacher=teacher),
        "smooth_l1": partial(losses.smooth_l1, teacher=teacher),
        "cosine_matrix_mse": partial(losses.relational_distillation, teacher=teacher),
    }[name]


LOGIT = ("kl_batchmean", "kl_batchmean_T2", "kl_mean", "kl_mean_T2", "soft_ce", "ce", "hinton_mix")
FEATURE = (
    "infonce_s2t",
    "infonce_t2s",
    "infonce_sym",
    "cosine",
    "mse_mean",
    "mse_sum_per_item",
    "mse_normalized",
    "smooth_l1",
    "cosine_matrix_mse",
)


@pytest.fixture(scope="module")
def vectors(oracle):
    return oracle("generic_kd")


def case_of(vectors, case):
    return {
        key.removeprefix(case + "."): value for key, value in vectors.items() if key.startswith(case + ".")
    }


def loss_and_student(name, o):
    if name in LOGIT:
        return logit_loss(name, o), o["student_logits"]
    return feature_loss(name, o), o["student_feat"]


def close(actual, reference, relative, absolute):
    error = np.abs(np.asarray(actual, np.float64) - reference).max()
    assert error <= relative * np.abs(reference).max() + absolute


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOGIT + FEATURE)
def test_value_and_gradient_float32(vectors, case, name):
    o = case_of(vectors, case)
    loss, student = loss_and_student(name, o)
    relative = 1e-4 if name.startswith("infonce") else 2e-5
    for function in (jax.value_and_grad(loss), jax.jit(jax.value_and_grad(loss))):
        value, gradient = function(jnp.asarray(student))
        close(value, o[f"{name}.loss"], relative, 1e-7)
        close(gradient, o[f"{name}.grad_student"], relative, 1e-7)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOGIT + FEATURE)
def test_value_and_gradient_float64(vectors, case, name):
    with jax.enable_x64(True):
        o = case_of(vectors, case)
        o |= {key: np.asarray(o[key], np.float64) for key in ("teacher_logits", "teacher_feat")}
        loss, student = loss_and_student(name, o)
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(student, jnp.float64))
        close(value, o[f"{name}.loss"], 1e-9, 1e-12)
        close(gradient, o[f"{name}.grad_student"], 1e-9, 1e-12)


@pytest.mark.parametrize("name", ["kl_batchmean", "infonce_sym", "cosine_matrix_mse", "smooth_l1"])
def test_under_vmap_every_batch_is_its_own(vectors, name):
    o = case_of(vectors, "c1")
    loss, student = loss_and_student(name, o)
    stacked = jnp.stack([student, 2 * student, -student])
    expected = [loss(jnp.asarray(one)) for one in stacked]
    np.testing.assert_allclose(jax.vmap(loss)(stacked), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["infonce_sym", "cosine_matrix_mse", "hinton_mix"])
def test_over_eight_devices_the_global_value_and_gradient(vectors, name):
    o = case_of(vectors, "c1")
    loss, student = loss_and_student(name, o)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(student, NamedSharding(mesh, PartitionSpec("data")))
    value, gradient = jax.jit(jax.value_and_grad(loss))(spread)
    close(value, o[f"{name}.loss"], 1e-5, 1e-6)
    close(gradient, o[f"{name}.grad_student"], 1e-5, 1e-6)

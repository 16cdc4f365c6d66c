"""Every value and gradient of generic_kd.npz: jitted in float32 and float64; one case plain, vmapped, over eight devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from tests.losses.vectors import case_of, close, over_eight_devices

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


def loss_and_student(name, o):
    if name in LOGIT:
        return logit_loss(name, o), o["student_logits"]
    return feature_loss(name, o), o["student_feat"]


def relative_in_float32(name):
    return 1e-4 if name.startswith("infonce") else 2e-5


def values_and_gradients(o):
    """{loss: (value, gradient)} of a case, all in one jitted program: a test of its own each would compile for a minute."""

    def all_losses(students):
        pairs = {name: loss_and_student(name, o)[0] for name in LOGIT + FEATURE}
        return {name: jax.value_and_grad(loss)(students[name in LOGIT]) for name, loss in pairs.items()}

    return all_losses


@pytest.fixture(scope="module", params=CASES)
def float32(request, vectors):
    o = case_of(vectors, request.param)
    return o, jax.jit(values_and_gradients(o))([o["student_feat"], o["student_logits"]])


@pytest.fixture(scope="module", params=CASES)
def float64(request, vectors):
    with jax.enable_x64(True):
        o = case_of(vectors, request.param, np.float64)
        return o, jax.jit(values_and_gradients(o))([o["student_feat"], o["student_logits"]])


@pytest.mark.parametrize("name", LOGIT + FEATURE)
def test_value_and_gradient_float32(float32, name):
    o, results = float32
    value, gradient = results[name]
    close(value, o[f"{name}.loss"], relative_in_float32(name), 1e-7)
    close(gradient, o[f"{name}.grad_student"], relative_in_float32(name), 1e-7)


@pytest.mark.parametrize("name", LOGIT + FEATURE)
def test_value_and_gradient_float64(float64, name):
    o, results = float64
    value, gradient = results[name]
    assert gradient.dtype == np.float64
    close(value, o[f"{name}.loss"], 1e-9, 1e-12)
    close(gradient, o[f"{name}.grad_student"], 1e-9, 1e-12)


@pytest.fixture(scope="module")
def mapped(vectors):
    """Three batches at once: the oracle's own in the middle, with others on both sides."""
    o = case_of(vectors, "c0")
    stacks = [jnp.stack([2 * x, x, x[::-1]]) for x in (o["student_feat"], o["student_logits"])]
    return o, jax.jit(jax.vmap(values_and_gradients(o)))(stacks)


@pytest.mark.parametrize("name", LOGIT + FEATURE)
def test_plain_and_under_vmap_the_same(mapped, name):
    o, results = mapped
    loss, student = loss_and_student(name, o)
    close(loss(jnp.asarray(student)), o[f"{name}.loss"], relative_in_float32(name), 1e-7)
    values, gradients = results[name]
    close(values[1], o[f"{name}.loss"], relative_in_float32(name), 1e-7)
    close(gradients[1], o[f"{name}.grad_student"], relative_in_float32(name), 1e-7)
    assert abs(values[1] - values[2]) > 1e-4


@pytest.mark.parametrize("name", ["infonce_sym", "cosine_matrix_mse", "hinton_mix"])
def test_over_eight_devices_the_global_value_and_gradient(vectors, name):
    o = case_of(vectors, "c1")
    loss, student = loss_and_student(name, o)
    value, gradient = jax.jit(jax.value_and_grad(loss))(over_eight_devices(student))
    assert len(gradient.sharding.device_set) == 8
    close(value, o[f"{name}.loss"], 1e-5, 1e-6)
    close(gradient, o[f"{name}.grad_student"], 1e-5, 1e-6)


def test_over_eight_devices_teacher_and_student_both_spread(vectors):
    o = case_of(vectors, "c1")
    for loss in (losses.relational_distillation, partial(losses.info_nce, temperature=float(o["tau"]))):
        function = jax.jit(jax.value_and_grad(loss))
        one = function(o["student_feat"], o["teacher_feat"])
        eight = function(over_eight_devices(o["student_feat"]), over_eight_devices(o["teacher_feat"]))
        close(eight[0], np.asarray(one[0], np.float64), 1e-5, 0)
        close(eight[1], np.asarray(one[1], np.float64), 1e-5, 0)


def test_balance_over_eight_devices_is_that_of_the_global_batch(vectors):
    codes = np.tanh(case_of(vectors, "c1")["student_feat"])
    function = jax.jit(jax.value_and_grad(losses.balance))
    value, gradient = function(over_eight_devices(codes))
    expected, expected_gradient = function(codes)
    close(value, np.asarray(expected, np.float64), 1e-5, 0)
    close(gradient, np.asarray(expected_gradient, np.float64), 1e-5, 0)
    # What each device would find in its own share is another number: the comparison above can fail.
    assert abs(np.mean([losses.balance(share) for share in np.split(codes, 8)]) - expected) > 1e-2

"""Every value and gradient of kd_baselines.npz: jitted in float32 and float64; one case plain, vmapped, over eight devices.

And what has no oracle: equal rows, the triple loop of angles, CRD.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from tests.losses.vectors import case_of, close, over_eight_devices

CASES = ("c0", "c1", "c2")
LOSSES = {
    "rkd": losses.rkd,
    "rkd_distance": losses.rkd_distance,
    "rkd_angle": losses.rkd_angle,
    "pkt": losses.pkt,
    "sp": losses.similarity_preserving,
    "sp_as_published": losses.similarity_preserving_published,
    "kl_T4": partial(losses.code_kl, temperature=4.0),
    "kl_T2": partial(losses.code_kl, temperature=2.0),
}
SAME_WIDTH = {"sp_as_published", "kl_T4", "kl_T2"}
CRD = partial(losses.crd, temperature=0.5)
ALL = {**LOSSES, "crd": CRD}
RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(2, 5, 4))


@pytest.fixture(scope="module")
def vectors(oracle):
    return oracle("kd_baselines")


def feature_results(o, student):
    """{loss: (value, gradient)} on features."""
    results = {}
    for name, loss in LOSSES.items():
        teacher = o["teacher_feat_same_width" if name in SAME_WIDTH else "teacher_feat"]
        results[name] = jax.value_and_grad(loss)(student, jnp.asarray(teacher, student.dtype))
    return results


def code_results(o, logits):
    """{loss: (value, (gradient of the codes, gradient of the logits))}; one backward pass gives both."""
    teacher = jnp.asarray(o["teacher_codes"], logits.dtype)

    def on_codes(loss, shift, x):
        return loss(losses.straight_through_sign(jax.nn.sigmoid(x) - 0.5) + shift, teacher)

    return {
        name: jax.value_and_grad(partial(on_codes, loss), argnums=(0, 1))(jnp.zeros_like(logits), logits)
        for name, loss in LOSSES.items()
    }


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(vectors, case, bits):
    o = case_of(vectors, case)
    with jax.enable_x64(bits == 64):

        def both(student, logits):
            return feature_results(o, student), code_results(o, logits)

        inputs = (jnp.asarray(o[key], f"float{bits}") for key in ("student_feat", "student_logits"))
        features, codes = jax.jit(both)(*inputs)
        for name in LOSSES:
            value, gradient = features[name]
            assert gradient.dtype == f"float{bits}"
            close(value, o[f"feat.{name}.loss"])
            close(gradient, o[f"feat.{name}.grad_student"])
            value, (gradient, logit_gradient) = codes[name]
            close(value, o[f"codes.{name}.loss"])
            close(gradient, o[f"codes.{name}.grad_codes"])
            close(logit_gradient, o[f"codes.{name}.grad_logits"])


def test_plain_and_under_vmap_the_same(vectors):
    o = case_of(vectors, "c0")
    student = jnp.asarray(o["student_feat"])
    stack = jnp.stack([student**2, student, student[::-1]])
    results = jax.jit(jax.vmap(partial(feature_results, o)))(stack)
    for name, (values, gradients) in results.items():
        teacher = o["teacher_feat_same_width" if name in SAME_WIDTH else "teacher_feat"]
        close(LOSSES[name](student, teacher), o[f"feat.{name}.loss"])
        close(values[1], o[f"feat.{name}.loss"])
        close(gradients[1], o[f"feat.{name}.grad_student"])
        assert abs(values[1] - values[2]) > 1e-5


def test_over_eight_devices_the_global_value_and_gradient(vectors):
    o = case_of(vectors, "c1")
    results = jax.jit(partial(feature_results, o))(over_eight_devices(o["student_feat"]))
    for name, (value, gradient) in results.items():
        assert len(gradient.sharding.device_set) == 8
        close(value, o[f"feat.{name}.loss"])
        close(gradient, o[f"feat.{name}.grad_student"])


def test_rkd_weights():
    weighted = jax.jit(losses.rkd)
    d, a = weighted(S, T, distance=1.0, angle=0.0), weighted(S, T, distance=0.0, angle=1.0)
    np.testing.assert_allclose(weighted(S, T, distance=1.0, angle=2.0), d + 2 * a, rtol=1e-6)
    np.testing.assert_allclose(d, jax.jit(losses.rkd_distance)(S, T), rtol=1e-6)


def slow_rkd_angle(student, teacher, without=()):
    """Three loops; a cosine is 0 where a point coincides with the vertex. Triples with a side in `without` are left out."""
    n, total = len(student), 0.0

    def cosine(rows, i, j, k):
        a, b = rows[j] - rows[i], rows[k] - rows[i]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / lengths if lengths else 0.0

    for i in range(n):
        for j in range(n):
            for k in range(n):
                if not {(i, j), (i, k)} & set(without):
                    d = abs(cosine(student, i, j, k) - cosine(teacher, i, j, k))
                    total += d * d / 2 if d < 1 else d - 0.5
    return total / n**3


def with_equal_rows(noise=0.0):
    rows = np.copy(S)
    rows[3] = rows[1] + noise
    return rows


@pytest.mark.parametrize("at_once", [1, 2 * 5**2])
def test_angles_point_by_point_as_all_at_once(monkeypatch, at_once):
    """Of larger batches some points are taken at a time, the last of them alone."""

    def both():
        return jax.value_and_grad(losses.rkd_angle)(jnp.asarray(S), T)

    value, gradient = both()
    monkeypatch.setattr(losses.relational, "ANGLES_AT_ONCE", at_once)
    mapped, mapped_gradient = both()
    np.testing.assert_allclose(mapped, value, rtol=1e-6)
    np.testing.assert_allclose(mapped_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_angles_with_equal_rows():
    rows = with_equal_rows()
    remaining = partial(slow_rkd_angle, teacher=T, without=[(1, 3), (3, 1)])
    slope = np.zeros_like(rows)
    for at in np.ndindex(*rows.shape):
        step = np.zeros_like(rows)
        step[at] = 1e-6
        slope[at] = (remaining(rows + step) - remaining(rows - step)) / 2e-6
    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(losses.rkd_angle))(rows, T)
    np.testing.assert_allclose(value, slow_rkd_angle(rows, T), rtol=1e-12)
    np.testing.assert_allclose(gradient, slope, atol=1e-9)


def test_rows_equal_up_to_rounding_have_no_large_gradient():
    gradient = jax.jit(jax.grad(losses.rkd_angle))
    exact, rounded = (gradient(jnp.float32(with_equal_rows(noise)), jnp.float32(T)) for noise in (0.0, 1e-7))
    np.testing.assert_allclose(exact, rounded, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_gradient_where_rows_coincide_or_are_zero(name):
    gradient = jax.jit(jax.value_and_grad(ALL[name]))
    t = jnp.float32(T)
    signs = jnp.sign(t)
    batches = {
        "equal rows": with_equal_rows(),
        "all rows equal": np.ones((5, 4)),
        "zero": np.zeros((5, 4)),
        "one zero": S * (np.arange(5) > 0)[:, None],
        "opposite": np.concatenate([signs[:2], -signs[:3]]),
        "tiny": S * 1e-12,
        "huge": S * 1e6,
    }
    for student in batches.values():
        for teacher in (t, jnp.zeros_like(t), jnp.ones_like(t)):
            value, slope = gradient(jnp.float32(student), teacher)
            assert np.isfinite(value)
            assert np.isfinite(slope).all()
    value, slope = gradient(t[:1], jnp.float32(S[:1]))  # a batch of one
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", ["rkd", "rkd_distance", "rkd_angle"])
def test_where_all_rows_coincide_nothing_moves(name):
    np.testing.assert_array_equal(jax.jit(jax.grad(ALL[name]))(jnp.ones((5, 4)), jnp.float32(T)), 0)


@pytest.mark.parametrize("name", ALL)
def test_no_gradient_into_the_teacher(name):
    gradient = jax.jit(jax.grad(ALL[name], argnums=1))(jnp.float32(S), jnp.float32(T))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", [name for name in ALL if name != "crd"])
def test_zero_for_the_teacher_itself(name):
    assert jax.jit(ALL[name])(jnp.float32(T), jnp.float32(T)) == pytest.approx(0, abs=1e-6)


def slow_crd(s, t, temperature, mean=None):
    """Two loops; `mean` is what e is divided by, else that of all pairs of two items."""
    n = len(s)
    e = np.exp([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature for b in t] for a in s])
    if mean is None:
        mean = e[~np.eye(n, dtype=bool)].mean()
    h = e / mean / (e / mean + n - 1)
    total = 0.0
    for i in range(n):
        for j in range(n):
            total -= np.log(h[i, j] if i == j else 1 - h[i, j])
    return total / n, mean


@pytest.mark.parametrize("temperature", [0.5, 0.07, 2.0])
def test_crd(temperature):
    value, mean = slow_crd(S, T, temperature)
    slope = np.zeros_like(S)
    for at in np.ndindex(*S.shape):
        step = np.zeros_like(S)
        step[at] = 1e-6
        up, down = (slow_crd(S + sign * step, T, temperature, mean)[0] for sign in (1, -1))
        slope[at] = (up - down) / 2e-6
    with jax.enable_x64(True):
        found, gradient = jax.jit(jax.value_and_grad(partial(losses.crd, temperature=temperature)))(S, T)
    np.testing.assert_allclose(found, value, rtol=1e-11)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-8)


def test_crd_by_hand_and_far_from_zero():
    # Two items: the mean of e over the wrong pairs is 1 and N is 1, so that h is sigmoid(cosine / temperature).
    value = losses.crd(jnp.eye(2), jnp.eye(2), temperature=1.0)
    assert value == pytest.approx(np.log(1 + np.exp(-1)) + np.log(2))
    # At 1e-3 the exponential of the paper's form overflows: to be 1000 below the wrong pair costs its 1000 whole.
    wrong = losses.crd(jnp.eye(2), jnp.eye(2)[::-1], temperature=1e-3)
    assert wrong == pytest.approx(1000 + np.log(2), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 0.07])
def test_crd_knows_an_aligned_student_and_makes_one(temperature):
    rng = np.random.default_rng(1)
    teacher = jnp.float32(rng.choice([-1, 1], (64, 64)))
    student = jnp.float32(rng.choice([-1, 1], (64, 64)))
    loss = jax.jit(jax.value_and_grad(partial(losses.crd, temperature=temperature)))
    value, slope = loss(student, teacher)
    assert loss(teacher, teacher)[0] < 0.9 * value
    pulls = -slope @ teacher.T  # [i, j]: how much a step of student i goes towards the code of teacher j
    own = np.diag(pulls)
    others = (np.sum(pulls, axis=1) - own) / 63
    assert (own > 0).all()
    assert (own > 5 * np.abs(others)).all()
    for _ in range(100):
        student -= 20 * loss(student, teacher)[1]
    nearest = np.argmax(np.sign(student) @ teacher.T, axis=1)
    np.testing.assert_array_equal(nearest, np.arange(64))


def test_crd_over_eight_devices_is_that_of_the_global_batch(vectors):
    o = case_of(vectors, "c1")
    function = jax.jit(jax.value_and_grad(CRD))
    student, teacher = o["student_feat"], o["teacher_feat_same_width"]
    one, eight = (
        function(student, teacher),
        function(over_eight_devices(student), over_eight_devices(teacher)),
    )
    close(eight[0], np.asarray(one[0], np.float64), 1e-5, 0)
    close(eight[1], np.asarray(one[1], np.float64), 1e-5, 0)

"""Every affinity, value and gradient of crossmodal.npz in float32 and float64, vmapped, over eight devices; the other losses of
cross-modal hashing by hand and by brute force."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash import losses
from tests.losses.vectors import case_of, close, over_eight_devices

CASES = ("c0", "c1", "c2")
DJSRH = {"mir": (0.9, 0.1), "nus": (0.6, 0.1), "wiki": (0.3, 0.3)}
SIDES = ("LEFT", "RIGHT")
JDSH = [f"jdsh_{data}_{kind}" for data in ("MIR", "NUS") for kind in ("published", "fitted")]
DSAH = {
    "cross": ("loss_it", 1),
    "pairs": ("loss_diag", 1),
    "symmetry": ("loss_sym", 2),
    "image": ("loss_ii", 1),
    "text": ("loss_tt", 1),
    "own_image": ("loss_ii_img", 0.1),
    "own_text": ("loss_tt_txt", 0.1),
}
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def vectors(oracle):
    return oracle("crossmodal")


def parameters(o, name):
    """JDSH's parameters by the names that its configuration files give them."""
    start = f"{name}.param_"
    return {key.removeprefix(start): float(value) for key, value in o.items() if key.startswith(start)}


def affinities(o, dtype):
    """{the oracle's name: the matrix, or a threshold}."""
    found = {
        f"S_{kind}": losses.scaled_cosine(jnp.asarray(o[f"feat_{kind}"], dtype)) for kind in ("img", "txt")
    }
    s_image, s_text = found["S_img"], found["S_txt"]
    for name, (beta, _) in DJSRH.items():
        found[f"djsrh_{name}.S"] = losses.djsrh_affinity(s_image, s_text, beta=beta)
    for name in JDSH:
        p = parameters(o, name)
        fused = losses.jdsh_fused(s_image, s_text, alpha=p["alpha"], beta=p["beta"], gamma=p["lamb"])
        found[f"{name.rsplit('_', 1)[0]}.S_fused"] = fused
        sides = [losses.HalfGaussians(p[f"LOC_{side}"], p["SCALE_LEFT"], p["SCALE_RIGHT"]) for side in SIDES]
        found[f"{name}.left"] = left = sides[0].thresholds(p["ALPHA"])[0]
        found[f"{name}.right"] = right = sides[1].thresholds(p["BETA"])[1]
        found[f"{name}.S"] = losses.weigh_distribution(
            fused,
            left=left,
            right=right,
            lowest=p["MIN"],
            highest=p["MAX"],
            l1=p["L1"],
            l2=p["L2"],
            mu=p["mu"],
        )
    found["dsah.S"] = losses.dsah_affinity(s_image, s_text)
    return found


def losses_of(o, found):
    """{the oracle's name: its loss as a function of the codes of pictures and of texts}."""
    functions = {
        f"djsrh_{name}": partial(losses.djsrh_loss, affinity=found[f"djsrh_{name}.S"], intra=intra)
        for name, (_, intra) in DJSRH.items()
    }
    functions |= {
        name: partial(losses.jdsh_loss, affinity=found[f"{name}.S"], intra=parameters(o, name)["INTRA"])
        for name in JDSH
    }
    functions["dsah"] = partial(
        losses.dsah_loss, affinity=found["dsah.S"], s_image=found["S_img"], s_text=found["S_txt"]
    )
    return functions


def everything(o, hid_image, hid_text):
    """Affinities, and of each loss ((value, terms), gradients)."""
    found = affinities(o, hid_image.dtype)

    def of_hidden(loss, *hidden):
        return loss(*(jnp.tanh(float(o["tanh_alpha"]) * h) for h in hidden))

    return found, {
        name: jax.value_and_grad(partial(of_hidden, loss), argnums=(0, 1), has_aux=True)(hid_image, hid_text)
        for name, loss in losses_of(o, found).items()
    }


def check(o, found, results):
    for name, matrix in found.items():
        close(np.asarray(matrix), o[name])
    for name, ((value, terms), gradients) in results.items():
        close(value, o["dsah.loss_without_decoders" if name == "dsah" else f"{name}.loss"])
        for kind, gradient in zip(("img", "txt"), gradients, strict=True):
            close(gradient, o[f"{name}.grad_hid_{kind}"])
        parts = {}
        if name == "dsah":
            parts = DSAH
        elif name.startswith("djsrh"):
            intra = DJSRH[name.removeprefix("djsrh_")][1]
            parts = {"cross": ("loss_it", 1), "image": ("loss_ii", intra), "text": ("loss_tt", intra)}
        for term, (part, weight) in parts.items():
            close(terms[term], weight * o[f"{name}.{part}"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_affinities_values_and_gradients(vectors, case, dtype):
    with jax.enable_x64(dtype == np.float64):
        o = case_of(vectors, case, dtype)
        found, results = jax.jit(partial(everything, o))(o["hid_img"], o["hid_txt"])
    assert len(found) == 20
    assert all(value.dtype == dtype for value in jax.tree.leaves(results))
    check(o, found, results)


def test_over_eight_devices_and_under_vmap_the_same(vectors):
    o = case_of(vectors, "c1")
    hidden = [o[f"hid_{kind}"] for kind in ("img", "txt")]
    spread = o | {key: over_eight_devices(o[key]) for key in ("feat_img", "feat_txt")}
    found, results = jax.jit(partial(everything, spread))(*map(over_eight_devices, hidden))
    check(o, found, results)
    found, results = jax.jit(jax.vmap(partial(everything, o)))(*(np.stack([2 * h, h]) for h in hidden))
    second = partial(jax.tree.map, lambda leaf: leaf[1])
    check(o, second(found), second(results))


def codes_of(count, bits, *kinds):
    return [RNG.normal(size=(count, bits)).astype(np.float32) for _ in kinds]


def test_clipped_affinities_and_both_sides_of_the_distribution():
    s = jnp.array([[-0.9, -0.2, 0.4, 0.9]])
    options = {"left": -0.5, "right": 0.5, "lowest": -1.0, "highest": 1.0, "l1": 0.1, "l2": 0.2}
    expected = 1.4 * np.array([[-0.9 * (1 + 0.1 * np.exp(-0.1)), -0.2, 0.4, 0.9 * (1 + 0.2 * np.exp(-0.1))]])
    np.testing.assert_allclose(losses.weigh_distribution(s, **options), expected, rtol=1e-6)
    np.testing.assert_allclose(
        losses.weigh_distribution(s, **options, clip=True), np.clip(expected, -1, 1), rtol=1e-6
    )


def ucch_by_loops(image, text, *, alpha=0.9, temperature=0.9, margin=0.2, shift=1.0):
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    anchors = np.sign(image + text)
    count, bits = image.shape
    contrast = ranking = 0.0
    for n in range(count):
        for rows in (image, text):
            chances = np.exp([rows[n] @ anchor / (temperature * np.sqrt(bits)) for anchor in anchors])
            contrast -= np.log(chances[n] / chances.sum()) / count
        for scores in (image[n] @ text.T, text[n] @ image.T):
            lowered = [s if s >= scores[n] - margin else s - shift for s in scores]
            ranking += (np.log(np.exp(lowered).sum()) - scores[n] + margin) / count
    return alpha * contrast + (1 - alpha) * ranking


def test_ucch_is_its_loops_and_trains_both_sides():
    image, text = codes_of(6, 16, "image", "text")
    text += image
    function = jax.jit(jax.value_and_grad(losses.ucch_loss, argnums=(0, 1), has_aux=True))
    (value, terms), gradients = jax.tree.map(np.asarray, function(image, text))
    assert value == pytest.approx(ucch_by_loops(image, text), rel=1e-5)
    assert value == pytest.approx(sum(terms.values()), rel=1e-6)
    assert all(np.abs(gradient).max() > 1e-4 for gradient in gradients)
    (near, _), _ = function(image, image)
    (far, _), _ = function(image, -image)
    assert near < value < far


@pytest.mark.parametrize("shared", [False, True])
def test_student_loss_by_loops_and_its_gradient_by_differences(shared):
    count, bits = 5, 8
    image, text = (u.astype(np.float64) for u in codes_of(count, bits, "image", "text"))
    similarity = RNG.uniform(size=(count, count))
    likelihood = 0.0
    for i in range(count):
        for j in range(count):
            theta = image[i] @ text[j] / 2
            likelihood += (np.log1p(np.exp(theta)) - similarity[i, j] * theta) / count**2
    common = np.sign(image + text)
    quantized = sum(np.sum(((common if shared else np.sign(u)) - u) ** 2) for u in (image, text))
    balanced = sum(np.sum(u.mean(axis=0) ** 2) for u in (image, text))
    with jax.enable_x64(True):
        loss = jax.jit(partial(losses.kdcmh_student_loss, shared_codes=shared))
        value, terms = jax.tree.map(np.asarray, loss(image, text, similarity))
        gradients = jax.jit(jax.grad(lambda *u: loss(*u, similarity)[0], argnums=(0, 1)))(image, text)
        for index, gradient in enumerate(gradients):
            step = [np.zeros_like(image), np.zeros_like(text)]
            step[index] = 1e-6 * RNG.normal(size=image.shape)
            ahead, behind = (loss(image + s * step[0], text + s * step[1], similarity)[0] for s in (1, -1))
            assert np.sum(gradient * step[index]) == pytest.approx(float(ahead - behind) / 2, rel=1e-5)
    assert terms["likelihood"] == pytest.approx(likelihood, rel=1e-9)
    assert terms["quantization"] == pytest.approx(0.1 * quantized / (count * bits), rel=1e-9)
    assert terms["balance"] == pytest.approx(0.1 * balanced / bits, rel=1e-9)
    assert value == pytest.approx(sum(terms.values()), rel=1e-9)


def test_likelihood_is_least_at_its_similarity_and_finite_for_large_codes():
    similarity = jnp.array([[0.9, 0.3], [0.5, 0.1]])
    theta = 2 * jnp.log(similarity / (1 - similarity))  # of codes: rows times the unit matrix
    gradient = jax.grad(losses.similarity_likelihood)(theta, jnp.eye(2), similarity)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    large = 1e4 * jnp.ones((2, 8))
    assert losses.similarity_likelihood(large, large, jnp.ones((2, 2))) == 0
    assert losses.similarity_likelihood(large, -large, jnp.ones((2, 2))) == pytest.approx(4e8)


def test_teacher_loss_is_half_of_jdshs_cross_term():
    image, text = codes_of(6, 8, "image", "text")
    s = losses.scaled_cosine(jnp.asarray(image))
    value, terms = jax.tree.map(np.asarray, losses.kdcmh_teacher_loss(image, text, s))
    of_jdsh = jax.tree.map(np.asarray, losses.jdsh_loss(image, text, s)[1])
    assert terms["cross"] == pytest.approx(of_jdsh["cross"] / 2, rel=1e-6)
    for name in ("pairs", "image", "text"):
        assert terms[name] == of_jdsh[name]
    assert value == pytest.approx(sum(terms.values()), rel=1e-6)


@pytest.mark.parametrize("bits", [16, 24])
def test_distilled_similarity_is_the_share_of_equal_bits(bits):
    a, b = (np.sign(x) for x in codes_of(7, bits, "a", "b"))
    shares = (a[:, None] == b[None]).mean(axis=2)
    found = losses.distilled_similarity(a, b)
    np.testing.assert_allclose(found, shares, rtol=1e-6)
    for threshold in np.unique(shares):  # each is reached, whatever its rounding
        reached = losses.distilled_similarity(a, b, threshold=threshold)
        np.testing.assert_array_equal(reached, shares >= threshold - 1e-9)


def test_zero_rows_have_finite_gradients_and_constants_none():
    image, text = codes_of(4, 8, "image", "text")
    image[1], text[1], text[2] = 0, 0, 0
    s = losses.scaled_cosine(jnp.zeros((4, 3)))
    np.testing.assert_array_equal(s, -1)

    def total(image, text, s):
        found = [losses.djsrh_loss, losses.jdsh_loss, losses.kdcmh_teacher_loss, losses.kdcmh_student_loss]
        values = [loss(image, text, s)[0] for loss in found]
        return sum(values) + losses.dsah_loss(image, text, s, s, s)[0] + losses.ucch_loss(image, text)[0]

    *of_codes, of_constant = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(image, text, s)
    assert all(np.isfinite(gradient).all() for gradient in of_codes)
    np.testing.assert_array_equal(of_constant, 0)

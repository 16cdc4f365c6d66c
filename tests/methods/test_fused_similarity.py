"""The fused similarity of all pairs against its matrix, SSDH's fit against its oracle, thresholds of codes by brute force,
and CCA-ITQ."""

from functools import partial

import jax
import numpy as np
import pytest

from kdhash import losses
from kdhash.losses.unsupervised import BINS, FIRST_EDGE
from kdhash.methods.cca import fit_cca, fit_cca_itq
from kdhash.methods.fused_similarity import (
    FusedSimilarity,
    fit_fused_similarity,
    fused_similarity,
    similarity_threshold,
    weighted_similarity,
)
from kdhash.methods.half_gaussians import fit_streamed, off_diagonal, unit_rows64

WEIGHTS = (0.4, 0.3, 0.3)


def pairs(items=70, seed=0, widths=(12, 20)):
    """Pictures of four kinds, with negative entries, and texts as words counted; the text of item 5 is empty."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, items)
    image = rng.normal(size=(4, widths[0]))[kinds] + 0.7 * rng.normal(size=(items, widths[0]))
    text = rng.poisson(rng.gamma(0.3, 2, size=(4, widths[1]))[kinds]).astype(np.float64)
    text[5] = 0
    return image, text


def whole(image, text):
    """S by its definition."""
    units = []
    for x in (image, text):
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        units.append(x / np.where(norm == 0, 1, norm))
    s_image, s_text = (2 * x @ x.T - 1 for x in units)
    rows = [s / np.linalg.norm(s, axis=1, keepdims=True) for s in (s_image, s_text)]
    across = rows[0] @ rows[1].T
    return WEIGHTS[0] * s_image + WEIGHTS[1] * s_text + WEIGHTS[2] * (across + across.T) / 2


def half_gaussians(values):
    edges = -3 - 1e-8 + 0.01 * np.arange(402)
    mode = edges[np.argmax(np.histogram(values, edges)[0])]
    sides = values[values <= mode], values[values > mode]
    mirrored = [np.concatenate([side, 2 * mode - side]) for side in sides]
    return mode, mirrored[0].std(), mirrored[1].std()


@pytest.fixture(scope="module")
def fitted():
    image, text = pairs()
    options = {"weights": WEIGHTS, "k_left": 1.0, "k_right": 1.5}
    return image, text, options, fit_fused_similarity(image, text, **options)


def test_the_whole_matrix_and_its_fit(fitted):
    image, text, _, stats = fitted
    expected = whole(image, text)
    with jax.enable_x64(True):
        found = jax.jit(fused_similarity)(stats, image, text)
        np.testing.assert_allclose(found, expected, atol=1e-12)
    values = expected[~np.eye(len(image), dtype=bool)]
    mode, left, right = half_gaussians(values)
    for actual, wanted in zip(
        (stats.mode, stats.left_std, stats.right_std, stats.left, stats.right, stats.lowest, stats.highest),
        (mode, left, right, mode - left, mode + 1.5 * right, values.min(), values.max()),
        strict=True,
    ):
        np.testing.assert_allclose(actual, wanted, atol=1e-9)
    assert stats.lowest < stats.left < stats.mode < stats.right < stats.highest


@pytest.mark.parametrize("chunk", [1, 16, 35, 69, 70])
def test_every_chunk_gives_the_same(fitted, chunk):
    image, text, options, stats = fitted
    other = fit_fused_similarity(image, text, **options, chunk=chunk)
    for actual, wanted in zip(other, stats, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-12)


def test_a_batch_in_float32_has_the_entries_of_the_whole_matrix(fitted, tmp_path):
    image, text, _, stats = fitted
    np.savez(tmp_path / "stats.npz", **stats._asdict())
    with np.load(tmp_path / "stats.npz") as file:
        stats = FusedSimilarity(**file)
    rows = np.array([5, 40, 3, 3, 61])
    batch = image[rows].astype(np.float32), text[rows].astype(np.int8)
    found = jax.jit(partial(fused_similarity, stats))(*batch)
    assert found.dtype == np.float32
    expected = whole(image, text)[rows][:, rows]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    weighted = jax.jit(partial(weighted_similarity, stats))(*batch)
    below, above = expected < stats.left, expected > stats.right
    assert below.any()
    assert above.any()
    by_hand = 1.4 * np.where(
        below,
        expected * (1 + 0.1 * np.exp(stats.lowest - expected)),
        np.where(above, expected * (1 + 0.2 * np.exp(expected - stats.highest)), expected),
    )
    np.testing.assert_allclose(weighted, np.clip(by_hand, -1, 1), atol=1e-5)
    assert np.abs(by_hand).max() > 1


def test_features_that_are_not_pairs_are_an_error():
    image, text = pairs()
    with pytest.raises(ValueError, match="69 pictures and 70 texts"):
        fit_fused_similarity(image[1:], text)
    with pytest.raises(ValueError, match="69 pictures and 70 texts"):
        fit_cca(image[1:], text, 4)
    with pytest.raises(ValueError, match="chunk is 0"):
        fit_fused_similarity(image, text, chunk=0)
    with pytest.raises(ValueError, match="no values"):
        fit_streamed([(np.zeros(0), 1)], first_edge=0.0, bins=10)


@pytest.mark.parametrize("case", ["f0", "f1", "f2"])
@pytest.mark.parametrize("chunk", [17, 1024])
def test_ssdhs_fit_is_that_of_its_oracle(oracle, case, chunk):
    o = {key[3:]: value for key, value in oracle("crossmodal").items() if key.startswith(case + ".")}
    unit = unit_rows64(o["features"])

    def distances():
        yield np.zeros(len(unit)), 1  # of each item with itself
        yield from off_diagonal(lambda rows, columns: 1 - unit[rows] @ unit[columns].T, len(unit), chunk)

    fit = fit_streamed(distances(), first_edge=FIRST_EDGE, bins=BINS)
    np.testing.assert_array_equal(fit.histogram, o["histogram"])
    assert (fit.left_count, fit.right_count) == (o["n_left"], o["n_right"])
    mode, left_std, right_std = fit.gaussians
    near, far = fit.gaussians.thresholds()
    for actual, name in zip(
        (mode, mode, mode, left_std, right_std, near, far),
        ("mode_left_edge", "l_mean", "r_mean", "l_std", "r_std", "threshold_similar", "threshold_dissimilar"),
        strict=True,
    ):
        np.testing.assert_allclose(actual, o[name], rtol=1e-9, err_msg=name)
    with jax.enable_x64(True):
        distances = losses.cosine_distances(np.asarray(o["features"], np.float64))
        np.testing.assert_array_equal(losses.similarity_structure(distances, fit.gaussians), o["S"])
        in_memory = losses.fit_half_gaussians(distances)
    np.testing.assert_allclose(in_memory, fit.gaussians, rtol=1e-9)


@pytest.mark.parametrize("bits", [16, 24])
def test_threshold_of_codes_by_brute_force(bits):
    rng = np.random.default_rng(bits)
    image, text = (np.sign(rng.normal(size=(30, bits))).astype(np.float32) for _ in range(2))
    shares = (image[:, None] == text[None]).mean(axis=2)
    others = np.sort(shares[~np.eye(30, dtype=bool)])[::-1]
    for count in (1, 2, 40, 400, 870):
        threshold = similarity_threshold(image, text, count, chunk=7)
        assert threshold == pytest.approx(others[count - 1], abs=1e-12)
        reached = np.array(losses.distilled_similarity(image, text, threshold=threshold))
        np.testing.assert_array_equal(reached, shares >= others[count - 1] - 1e-9)
        np.fill_diagonal(reached, 0)
        assert reached.sum() >= count
    for count in (0, 871):
        with pytest.raises(ValueError, match="choose 1 to 870"):
            similarity_threshold(image, text, count)


def paired_views(items=400, seed=0):
    """Two linear views of six hidden values, with noise."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(items, 6))
    return [
        hidden @ np.random.default_rng(width).normal(size=(6, width))
        + 0.3 * rng.normal(size=(items, width))
        + 2
        for width in (24, 16)
    ]


def test_cca_itq_brings_pairs_together():
    image, text = paired_views()
    hashers = fit_cca_itq(image[:300], text[:300], 12, seed=0)
    codes = [hasher.encode(x[300:]) >= 0 for hasher, x in zip(hashers, (image, text), strict=True)]
    distances = (codes[0][:, None] != codes[1][None]).sum(axis=2)
    of_pairs, others = np.diag(distances).mean(), distances[~np.eye(100, dtype=bool)].mean()
    assert of_pairs < 0.5 * others
    assert np.mean(np.argsort(np.argsort(distances, axis=1), axis=1).diagonal()) < 15


def test_projections_of_cca_have_the_variance_of_their_correlation_and_itq_rotates_them():
    image, text = paired_views()
    cca = fit_cca(image, text, 6, regularization=1e-9)
    a, b = (hasher.encode(x) for hasher, x in zip(cca, (image, text), strict=True))
    correlations = np.diag(np.corrcoef(a.T, b.T)[:6, 6:])
    assert np.all(np.diff(correlations) <= 1e-9)
    np.testing.assert_allclose(a.T @ a / 400, np.diag(correlations**2), atol=1e-6)
    np.testing.assert_allclose(a.T @ b / 400, np.diag(correlations**3), atol=1e-6)
    itq = fit_cca_itq(image, text, 6, seed=0, regularization=1e-9)
    rotated = itq.image.encode(image), itq.text.encode(text)
    rotation = np.linalg.lstsq(a, rotated[0], rcond=None)[0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(6), atol=1e-9)
    np.testing.assert_allclose(b @ rotation, rotated[1], atol=1e-9)


def test_cca_says_what_to_do_where_it_cannot():
    image, text = paired_views()
    with pytest.raises(
        ValueError, match="17 bits from 24-d pictures and 16-d texts .* at most 16 .* fewer bits"
    ):
        fit_cca_itq(image, text, 17, seed=0)
    with pytest.raises(ValueError, match="at most 9"):
        fit_cca(image[:10], text[:10], 12)
    with pytest.raises(ValueError, match="above 0"):
        fit_cca(image, text, 4, regularization=0)


def test_features_that_never_vary_have_no_direction():
    image, text = paired_views()
    codes = fit_cca_itq(np.ones_like(image), text, 4, seed=0).text.encode(text)
    assert np.isfinite(codes).all()

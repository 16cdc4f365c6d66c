"""Spectral hashing: closed forms on a rectangle, and what holds on any features."""

import numpy as np
import pytest

from kdhash.methods.fitted import fit_pca
from kdhash.methods.spectral import fit_spectral
from kdhash.retrieval import mean_average_precision, pack_codes

LONG, SHORT = 2.6, 1.0


def rectangle(dtype=np.float64):
    """A grid that fills [0, LONG] x [0, SHORT]; and its coordinates from 0 to 1."""
    x, y = np.meshgrid(np.linspace(0, 1, 131), np.linspace(0, 1, 51), indexing="ij")
    unit = np.stack([x.ravel(), y.ravel()], axis=1)
    return (unit * [LONG, SHORT]).astype(dtype), unit


def turned_into_space(points, width=5, seed=0):
    """The same points on a plane of any direction in a space of more dimensions."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0][:2]
    return points @ axes + rng.normal(size=width)


def frequencies(hasher):
    return np.linalg.norm(hasher.projection, axis=0)


def clusters(seed=0, items=600, width=24):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, items)
    centres = rng.normal(size=(6, width))
    return (centres[labels] + 0.8 * rng.normal(size=(items, width))).astype(np.float32), labels


# k / extent: 1 / 2.6, 2 / 2.6, 1 / 1, 3 / 2.6, 4 / 2.6, 5 / 2.6, 2 / 1, 6 / 2.6: (axis, k) in order
MODES = [(0, 1), (0, 2), (1, 1), (0, 3), (0, 4), (0, 5), (1, 2), (0, 6)]


@pytest.mark.parametrize("place", [lambda x: x, lambda x: x + 7, lambda x: x[:, ::-1], turned_into_space])
def test_a_rectangle_has_its_eigenfunctions(place):
    points, unit = rectangle()
    hasher = fit_spectral(place(points), len(MODES))
    codes = hasher.encode(place(points))
    for bit, (axis, k) in enumerate(MODES):
        expected = np.cos(k * np.pi * unit[:, axis])
        sign = np.sign(codes[:, bit] @ expected)  # a principal direction may point either way
        np.testing.assert_allclose(codes[:, bit], sign * expected, atol=1e-9)
    lengths = np.array([[LONG, SHORT][axis] for axis, _ in MODES])
    np.testing.assert_allclose(frequencies(hasher), [k * np.pi for _, k in MODES] / lengths, rtol=1e-9)


def test_the_closed_form_is_the_smoothest_of_the_graph():
    # Paths of a grid have the Laplacian's eigenvectors cos(k pi (i + 1/2) / n); those of a line with few gaps are near.
    n = 400
    line = np.linspace(0, 1, n)[:, None]
    laplacian = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    laplacian[0, 0] = laplacian[-1, -1] = 1
    smoothest = np.linalg.eigh(laplacian)[1][:, 1:6]  # the first is constant
    codes = fit_spectral(line, 5).encode(line)
    codes /= np.linalg.norm(codes, axis=0)
    assert np.all(np.abs(np.sum(codes * smoothest, axis=0)) > 0.9999)


def test_bits_of_a_rectangle_are_balanced_and_modes_uncorrelated():
    points, _ = rectangle()
    codes = fit_spectral(points, len(MODES)).encode(points)
    np.testing.assert_allclose(np.where(codes >= 0, 1, -1).mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(2 * codes.T @ codes / len(codes), np.eye(len(MODES)), atol=0.05)


def test_modes_are_ordered_and_each_is_another():
    features, _ = clusters()
    hasher = fit_spectral(features, 40)
    omega = frequencies(hasher)
    assert np.all(np.diff(omega) >= -1e-4 * omega[1:])
    directions = np.abs(fit_pca(features, 24).projection.T @ hasher.projection) / omega
    np.testing.assert_allclose(directions.max(axis=0), 1, atol=1e-4)  # each along one principal direction
    extent = np.ptp(fit_pca(features, 24).encode(features), axis=0)
    of = directions.argmax(axis=0)
    k = np.round(omega * extent[of] / np.pi)
    np.testing.assert_allclose(omega, k * np.pi / extent[of], rtol=1e-3)
    assert len(set(zip(of, k, strict=True))) == 40
    # None smoother was left out: every direction's next mode is at least as quick as the last.
    taken = np.bincount(of, minlength=24)
    assert np.all((taken + 1) * np.pi / extent >= omega[-1] * (1 - 1e-4))
    for direction in range(24):
        np.testing.assert_array_equal(k[of == direction], 1 + np.arange(taken[direction]))


def test_fewer_bits_are_the_first_of_more_where_all_directions_take_part():
    features, _ = clusters()
    more, fewer = fit_spectral(features, 64), fit_spectral(features, 32)
    np.testing.assert_allclose(more.encode(features)[:, :32], fewer.encode(features), atol=1e-4)


def test_more_bits_than_dimensions():
    features, _ = clusters(width=3)
    codes = fit_spectral(features, 64).encode(features)
    assert codes.shape == (600, 64)
    assert codes.dtype == np.float32
    assert len(np.unique(np.sign(codes), axis=1).T) == 64


@pytest.mark.parametrize("move", [lambda x: x + 5, lambda x: 1000 * x])
def test_codes_depend_on_neither_origin_nor_scale(move):
    features = clusters()[0].astype(np.float64)
    moved = fit_spectral(move(features), 16).encode(move(features))
    still = fit_spectral(features, 16).encode(features)
    signs = np.sign(np.sum(moved * still, axis=0))
    np.testing.assert_allclose(moved, signs * still, atol=1e-6)


def test_items_not_seen_at_the_fit():
    features, labels = clusters()
    hasher = fit_spectral(features[100:], 16)
    codes = pack_codes(hasher.encode(features))
    score = mean_average_precision(codes[:100], codes[100:], labels[:100], labels[100:])
    assert score > 0.4  # by chance 1/6
    # Beyond the extent of the fit the waves go on.
    far = hasher.encode(1000 * features[:1])
    assert np.all(np.abs(far) <= 1)


def test_a_direction_without_extent_gives_no_bit():
    features = np.random.default_rng(0).uniform(size=(200, 2))
    flat = np.hstack([features, np.full((200, 2), 3.0)])
    hasher = fit_spectral(flat, 12)
    assert np.isfinite(hasher.encode(flat)).all()
    np.testing.assert_allclose(hasher.projection[2:], 0, atol=1e-9)


def test_same_features_same_codes():
    features, _ = clusters()
    np.testing.assert_array_equal(fit_spectral(features, 8).projection, fit_spectral(features, 8).projection)


@pytest.mark.parametrize(
    ("features", "bits", "message"),
    [
        (np.zeros(8), 4, "at least two items"),
        (np.zeros((1, 8)), 4, "at least two items"),
        (np.ones((5, 8)), 4, "all items are equal"),
        (np.eye(8), 0, "0 bits"),
    ],
)
def test_errors(features, bits, message):
    with pytest.raises(ValueError, match=message):
        fit_spectral(features, bits)

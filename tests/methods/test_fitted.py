"""ITQ, PCA and LSH on clustered features."""

import numpy as np
import pytest

from kdhash.methods.fitted import fit_itq, fit_lsh, fit_pca, quantization_error, rotate_towards_signs
from kdhash.retrieval import mean_average_precision, pack_codes


def clusters(seed=0, items=600, width=24):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, items)
    centres = rng.normal(size=(6, width))
    return (centres[labels] + 0.8 * rng.normal(size=(items, width))).astype(np.float32), labels


def score(hasher, features, labels):
    codes = pack_codes(hasher.encode(features))
    return mean_average_precision(codes[:100], codes[100:], labels[:100], labels[100:])


def test_itq_beats_lsh_which_beats_chance():
    features, labels = clusters()
    itq = score(fit_itq(features[100:], 16, seed=0), features, labels)
    lsh = score(fit_lsh(features[100:], 16, seed=0), features, labels)
    assert itq > lsh > 0.25


def test_every_rotation_step_is_orthogonal_and_lowers_the_error():
    features, _ = clusters()
    projected = fit_pca(features, 16).encode(features)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    errors = [quantization_error(projected @ rotation)]
    for _ in range(20):
        rotation = rotate_towards_signs(projected, rotation)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-5)
        errors.append(quantization_error(projected @ rotation))
    assert all(after <= before + 1e-6 for before, after in zip(errors, errors[1:], strict=False))
    assert errors[-1] < errors[0]


def test_fitted_itq_is_pca_and_the_rotation_of_all_its_steps():
    features, _ = clusters()
    pca, itq = fit_pca(features, 16), fit_itq(features, 16, seed=0)
    projected = pca.encode(features)
    rotation = pca.projection.T @ itq.projection
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-5)
    errors = [
        quantization_error(fit_itq(features, 16, seed=0, iterations=n).encode(features)) for n in (0, 5, 50)
    ]
    assert errors[0] > errors[1] > errors[2]
    # Codes are those of the rotated projections: the rotation is neither transposed nor left out.
    np.testing.assert_allclose(itq.encode(features), projected @ rotation, atol=1e-4)


@pytest.mark.parametrize("fit", [fit_lsh, fit_itq])
def test_codes_do_not_depend_on_where_the_origin_is(fit):
    features, _ = clusters()
    features = features.astype(np.float64)
    moved = features + 5
    np.testing.assert_allclose(
        fit(moved, 16, seed=0).encode(moved), fit(features, 16, seed=0).encode(features), atol=1e-6
    )
    np.testing.assert_allclose(fit(moved, 16, seed=0).encode(moved).mean(axis=0), 0, atol=1e-9)


def test_pca_directions_are_ordered_by_variance():
    features, _ = clusters()
    spread = fit_pca(features, 8).encode(features).std(axis=0)
    assert np.all(np.diff(spread) <= 1e-5)


def test_same_seed_same_codes():
    features, _ = clusters()
    for fit in (fit_itq, fit_lsh):
        np.testing.assert_array_equal(
            fit(features, 8, seed=3).projection, fit(features, 8, seed=3).projection
        )
        assert not np.array_equal(fit(features, 8, seed=3).projection, fit(features, 8, seed=4).projection)


def test_more_bits_than_dimensions():
    features, _ = clusters()
    with pytest.raises(ValueError, match="64 bits from 24-d features"):
        fit_itq(features, 64, seed=0)
    assert fit_lsh(features, 64, seed=0).encode(features).shape == (600, 64)


@pytest.mark.parametrize("features", [np.zeros(8), np.zeros((1, 8))])
def test_too_few_features(features):
    with pytest.raises(ValueError, match="at least two items"):
        fit_lsh(features, 4, seed=0)

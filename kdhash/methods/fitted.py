"""Hashers that are fitted, not trained: the lower lines of every comparison. Plain NumPy, no labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class LinearHash(NamedTuple):
    """codes = (features - mean) @ projection; their signs are the bits."""

    mean: Float[np.ndarray, " width"]
    projection: Float[np.ndarray, "width bits"]

    def encode(self, features: Float[np.ndarray, "items width"]) -> Float[np.ndarray, "items bits"]:
        """Real-valued codes; bit 1 where a value is not negative."""
        return (features - self.mean) @ self.projection


def fit_lsh(features: Float[np.ndarray, "items width"], bits: int, *, seed: int) -> LinearHash:
    """Random hyperplanes through the mean. Source: Charikar, STOC 2002."""
    features = _checked(features)
    planes = np.random.default_rng(seed).normal(size=(features.shape[1], bits))
    return LinearHash(features.mean(axis=0), planes.astype(features.dtype))


def fit_pca(features: Float[np.ndarray, "items width"], bits: int) -> LinearHash:
    """The `bits` directions of largest variance. Raises ValueError for more bits than the features are wide."""
    features = _checked(features)
    width = features.shape[1]
    if bits > width:
        raise ValueError(
            f"{bits} bits from {width}-d features: a projection has no more directions than the width; use LSH"
        )
    mean = features.mean(axis=0)
    _, directions = np.linalg.eigh(np.cov((features - mean).T).reshape(width, width))
    return LinearHash(mean, directions[:, ::-1][:, :bits].astype(features.dtype))


def fit_itq(
    features: Float[np.ndarray, "items width"], bits: int, *, seed: int, iterations: int = 50
) -> LinearHash:
    """PCA, then the rotation that brings the projections nearest to their signs. Raises ValueError as `fit_pca`.

    Source: Gong and Lazebnik, Iterative Quantization, CVPR 2011, section 2.
    """
    pca = fit_pca(features, bits)
    projected = pca.encode(features)
    random = np.random.default_rng(seed).normal(size=(bits, bits))
    rotation = np.linalg.qr(random)[0].astype(projected.dtype)
    for _ in range(iterations):
        rotation = rotate_towards_signs(projected, rotation)
    return LinearHash(pca.mean, pca.projection @ rotation)


def rotate_towards_signs(
    projected: Float[np.ndarray, "items bits"], rotation: Float[np.ndarray, "bits bits"]
) -> Float[np.ndarray, "bits bits"]:
    """One step of ITQ: fix the codes sign(V R), then the best rotation to them (orthogonal Procrustes)."""
    codes = np.where(projected @ rotation >= 0, 1.0, -1.0).astype(projected.dtype)
    left, _, right = np.linalg.svd(projected.T @ codes)
    return left @ right


def quantization_error(projected: Float[np.ndarray, "items bits"]) -> float:
    """Mean squared distance of projections to their signs, per item: what ITQ lowers with every step."""
    return float(np.mean(np.sum((np.abs(projected) - 1) ** 2, axis=1)))


def _checked(features: np.ndarray) -> np.ndarray:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be [items, width] with at least two items, got {features.shape}")
    return features

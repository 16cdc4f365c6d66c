"""CCA-ITQ: linear hashing of pictures and texts into common bits, fitted on pairs without labels. Plain NumPy, float64."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kdhash.methods.fitted import LinearHash, rotate_towards_signs


class CrossModalHash(NamedTuple):
    """One hasher for each modality; both encode to the same bits."""

    image: LinearHash
    text: LinearHash


def fit_cca(
    image_features: Float[np.ndarray, "items image_width"],
    text_features: Float[np.ndarray, "items text_width"],
    bits: int,
    *,
    regularization: float = 1e-3,
) -> CrossModalHash:
    """The `bits` pairs of directions whose projections correlate most, each of unit variance times its correlation.

    `regularization` times the mean variance of a modality's features is added to every variance: without it, wide features of
    few items correlate by chance. Source: Hotelling 1936; scaled by correlation as for CCA-ITQ (Gong and Lazebnik,
    CVPR 2011). Raises ValueError for features that are not pairs, for more bits than the narrower features have
    dimensions or than there are items less one, and for regularization that is not above 0.
    """
    pairs = len(image_features)
    if len(text_features) != pairs or pairs < 2:
        raise ValueError(
            f"{pairs} pictures and {len(text_features)} texts; give two or more pairs, one text a picture"
        )
    if regularization <= 0:
        raise ValueError(f"regularization is {regularization}; give a number above 0, such as .001")
    widths = image_features.shape[1], text_features.shape[1]
    most = min(*widths, pairs - 1)
    if not 0 < bits <= most:
        raise ValueError(
            f"{bits} bits from {widths[0]}-d pictures and {widths[1]}-d texts of {pairs} items: CCA has at most {most} "
            "directions; choose fewer bits, wider features or a trained method"
        )
    image_mean, image, image_root = _whitened(image_features, regularization)
    text_mean, text, text_root = _whitened(text_features, regularization)
    left, correlations, right = np.linalg.svd(image.T @ text / pairs, full_matrices=False)
    scales = correlations[:bits]
    return CrossModalHash(
        LinearHash(image_mean, image_root @ left[:, :bits] * scales),
        LinearHash(text_mean, text_root @ right[:bits].T * scales),
    )


def fit_cca_itq(
    image_features: Float[np.ndarray, "items image_width"],
    text_features: Float[np.ndarray, "items text_width"],
    bits: int,
    *,
    seed: int,
    regularization: float = 1e-3,
    iterations: int = 50,
) -> CrossModalHash:
    """`fit_cca`, then the one rotation that brings the projections of both modalities nearest to their signs.

    Source: Gong and Lazebnik, Iterative Quantization, CVPR 2011, with texts in place of labels. Raises ValueError as `fit_cca`.
    """
    cca = fit_cca(image_features, text_features, bits, regularization=regularization)
    projected = np.concatenate([cca.image.encode(image_features), cca.text.encode(text_features)])
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(bits, bits)))[0]
    for _ in range(iterations):
        rotation = rotate_towards_signs(projected, rotation)
    image, text = (LinearHash(one.mean, one.projection @ rotation) for one in cca)
    return CrossModalHash(image, text)


def _whitened(features: np.ndarray, regularization: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, the centred features times the inverse root of their regularised covariance, and that root."""
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    covariance = centred.T @ centred / len(centred)
    ridge = regularization * max(np.trace(covariance) / len(covariance), np.finfo(np.float64).tiny)
    values, directions = np.linalg.eigh(covariance)
    root = directions / np.sqrt(np.maximum(values, 0) + ridge) @ directions.T
    return mean, centred @ root, root

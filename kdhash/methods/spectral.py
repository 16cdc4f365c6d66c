"""Spectral hashing, fitted, not trained. Plain NumPy, no labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kdhash.methods.fitted import fit_pca


class SpectralHash(NamedTuple):
    """codes = cos((features - mean) @ projection + phase); their signs are the bits.

    A column of `projection` is a principal direction times the angular frequency of the bit's mode along it.
    """

    mean: Float[np.ndarray, " width"]
    projection: Float[np.ndarray, "width bits"]
    phase: Float[np.ndarray, " bits"]

    def encode(self, features: Float[np.ndarray, "items width"]) -> Float[np.ndarray, "items bits"]:
        """Real-valued codes in [-1, 1]; bit 1 where a value is not negative."""
        return np.cos((features - self.mean) @ self.projection + self.phase)


def fit_spectral(features: Float[np.ndarray, "items width"], bits: int) -> SpectralHash:
    """The `bits` smoothest functions of one principal direction each, as if the features filled a box of their extent evenly.

    Along a direction with extent [a, b] these are cos(k pi (x - a) / (b - a)), k = 1, 2, ...; of all directions and k those
    with the smallest k / (b - a), in that order. Long directions give several bits, so `bits` may exceed the width.
    Products of modes of several directions are left out, as in the paper: they follow from the others. Only the first `bits`
    principal directions take part, as in its program.
    Raises ValueError for fewer than two items, fewer than one bit, or where all items are equal.

    Source: Weiss, Torralba and Fergus, Spectral Hashing, NIPS 2008, section 3.
    """
    if bits < 1:
        raise ValueError(f"{bits} bits: choose at least 1")
    pca = fit_pca(features, min(bits, np.shape(features)[-1]))
    projected = pca.encode(features)
    low, extent = projected.min(axis=0), np.ptp(projected, axis=0)
    if not extent.max() > 0:
        raise ValueError("all items are equal: no direction tells them apart")
    with np.errstate(divide="ignore"):  # a direction without extent: infinite frequencies, never chosen
        frequencies = np.pi * np.arange(1, bits + 1)[:, None] / extent
    chosen = np.argsort(frequencies, axis=None, kind="stable")[:bits]
    direction, frequency = chosen % len(extent), frequencies.reshape(-1)[chosen]
    return SpectralHash(
        pca.mean,
        (pca.projection[:, direction] * frequency).astype(features.dtype),
        (-low[direction] * frequency).astype(features.dtype),
    )

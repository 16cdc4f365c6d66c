"""Codes from features alone: GreedyHash, Bi-half, and the similarity structure of SSDH.

`features` are frozen, a constant; `h` are the hash layer's real-valued outputs for the same items.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.losses.hashing import quantization, straight_through_sign
from kdhash.losses.pairwise import inner_products
from kdhash.losses.similarity import cosine, cosine_matrix

# Of the histogram of cosine distances; the first edge lets a distance of 0 into the first bin.
BINS, BIN_WIDTH, FIRST_EDGE = 100, 0.01, -1e-8


def half_pairs_cosine(
    codes: Float[Array, "batch bits"], features: Float[Array, "batch width"]
) -> Float[Array, ""]:
    """mean of (cos(code_i, code_j) - cos(feature_i, feature_j))^2 over pairs of row i of the first half and row i of the second.

    The last row of an odd batch takes no part. Source: the unsupervised GreedyHash (NeurIPS 2018).
    Raises ValueError for a batch of fewer than two rows.
    """
    if len(codes) < 2:
        raise ValueError(f"a batch of {len(codes)} has no pair; give two rows or more")
    half = len(codes) // 2
    features = jax.lax.stop_gradient(features)
    of_codes = cosine(codes[:half], codes[half : 2 * half])
    return jnp.mean((of_codes - cosine(features[:half], features[half : 2 * half])) ** 2)


def greedyhash_unsupervised(
    h: Float[Array, "batch bits"], features: Float[Array, "batch width"], *, quantization_weight: float = 0.1
) -> Float[Array, ""]:
    """`half_pairs_cosine` of sign(h), with straight-through gradient, and the weighted mean(||h| - 1|^3).

    Source: GreedyHash (Su, Zhang, Han and Tian, NeurIPS 2018).
    """
    codes = straight_through_sign(h)
    return half_pairs_cosine(codes, features) + quantization_weight * quantization(h, power=3)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def bihalf_codes(h: Float[Array, "batch bits"], gamma: float = 6.0) -> Float[Array, "batch bits"]:
    """+1 for the floor(batch / 2) largest entries of each bit's column, -1 for the rest: every bit is used by half of the batch.

    Of equal entries the earlier row counts as the larger. The gradient is the upstream one plus gamma (h - code) / (batch bits),
    which pulls h to its code. Over the global batch. Source: Bi-half Net (Li and van Gemert, AAAI 2021, arXiv 2012.12334).
    """
    rank = jnp.argsort(jnp.argsort(-h, axis=0, stable=True), axis=0)
    return jnp.where(rank < len(h) // 2, 1, -1).astype(h.dtype)


def _bihalf_forward(h, gamma):
    codes = bihalf_codes(h, gamma)
    return codes, h - codes


def _bihalf_backward(gamma, difference, upstream):
    return (upstream + gamma * difference / difference.size,)


bihalf_codes.defvjp(_bihalf_forward, _bihalf_backward)


def bihalf(
    h: Float[Array, "batch bits"], features: Float[Array, "batch width"], *, gamma: float = 6.0
) -> Float[Array, ""]:
    """`half_pairs_cosine` of `bihalf_codes`. Source: Bi-half Net (AAAI 2021, arXiv 2012.12334)."""
    return half_pairs_cosine(bihalf_codes(h, gamma), features)


class HalfGaussians(NamedTuple):
    """Two normal halves that meet at the mode of a distribution of distances."""

    mode: Float[Array, ""]
    left_std: Float[Array, ""]
    right_std: Float[Array, ""]

    def thresholds(self, widths: float = 2.0) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Distances `widths` standard deviations to the left and to the right of the mode."""
        return self.mode - widths * self.left_std, self.mode + widths * self.right_std


def cosine_distances(features: Float[Array, "batch width"]) -> Float[Array, "batch batch"]:
    """1 - cosine of all pairs, in [0, 2]; an item's distance to itself is 0."""
    distances = 1 - cosine_matrix(features, features)
    return jnp.where(jnp.eye(len(features), dtype=bool), 0, distances)


def distance_histogram(distances: Float[Array, "*shape"]) -> tuple[Array, Float[Array, " bins"]]:
    """How many distances lie strictly within each of 100 bins of width .01 from -1e-8 on, and the bins' left edges.

    Distances beyond 1 are not counted.
    """
    edges = FIRST_EDGE + BIN_WIDTH * jnp.arange(BINS + 1, dtype=distances.dtype)
    values = jnp.sort(distances.reshape(-1))
    below_right = jnp.searchsorted(values, edges[1:], side="left")
    up_to_left = jnp.searchsorted(values, edges[:-1], side="right")
    return below_right - up_to_left, edges[:-1]


def fit_half_gaussians(distances: Float[Array, "*shape"]) -> HalfGaussians:
    """The mode is the left edge of the first fullest bin; a half's variance is the mean of (d - mode)^2 on its side.

    That is the normal fit to a side and its mirror image. A side without distances has standard deviation 0. A sample of pairs
    serves as well as all. Source: SSDH (Yang, Deng, Liu, Liu, Tao and Gao, IJCAI 2018), in the form of its program.
    """
    distances = jax.lax.stop_gradient(distances)
    counts, edges = distance_histogram(distances)
    mode = edges[jnp.argmax(counts)]
    left = distances <= mode

    def std(side):
        squares = jnp.sum(jnp.where(side, (distances - mode) ** 2, 0))
        return jnp.sqrt(squares / jnp.maximum(jnp.sum(side), 1))

    return HalfGaussians(mode, std(left), std(~left))


def similarity_structure(
    distances: Float[Array, "rows columns"], fit: HalfGaussians, *, widths: float = 2.0
) -> Float[Array, "rows columns"]:
    """+1 for pairs nearer than mode - widths * left_std, -1 for farther than mode + widths * right_std, 0 between.

    Row blocks may be computed one by one. Source: SSDH (IJCAI 2018).
    """
    near, far = fit.thresholds(widths)
    return (distances < near).astype(distances.dtype) - (distances > far).astype(distances.dtype)


def ssdh(h: Float[Array, "batch bits"], similarity: Float[Array, "batch batch"]) -> Float[Array, ""]:
    """mean over all pairs of |S| (<v_i, v_j> / bits - S)^2, v = tanh(h): pairs with S = 0 are left free.

    S is that of the batch's items, from `similarity_structure`. Source: SSDH (IJCAI 2018).
    """
    similarity = jax.lax.stop_gradient(similarity)
    v = jnp.tanh(h)
    relation = inner_products(v, v) / h.shape[1]
    return jnp.mean(jnp.abs(similarity) * (relation - similarity) ** 2)

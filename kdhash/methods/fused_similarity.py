"""The fused similarity of JDSH over a whole training set, exactly and without its matrix: KDCMH's first stage.

X and Y are rows of length 1 of picture and text features of all N training items. S_image = 2 X X^T - 1 and S_text likewise;
H[i, j] is the cosine of row i of S_image with row j of S_text, taken over all N items:

    <S_image[i], S_text[j]> / N = 4 x_i^T C y_j + (2 x_i . m - 1) (2 y_j . n - 1)

with m, n the means of X, Y and C their cross-covariance, and the norms likewise. So S of any batch needs only statistics
as large as the features are wide.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kdhash.losses import scaled_cosine, unit_rows, weigh_distribution
from kdhash.methods.half_gaussians import fit_streamed, off_diagonal, unit_rows64

LOWEST_EDGE, FUSED_BINS = -3.0 - 1e-8, 401  # 2 cos - 1 lies in [-3, 1]
NORM_FLOOR = 1e-12  # of a row of S whose entries are all 0

AnyArray = Array | np.ndarray


class FusedSimilarity(NamedTuple):
    """What S of any rows is computed from. Arrays only: a pytree; `np.savez(path, **stats._asdict())` keeps it.

    mean_*, cov_*: of rows of length 1; cov_cross of pictures (rows) with texts (columns).  weights: of S_image, S_text and H.
    mode, left_std, right_std: of the off-diagonal entries of S; left, right: thresholds; lowest, highest: extremes.
    """

    mean_image: Float[AnyArray, " image_width"]
    mean_text: Float[AnyArray, " text_width"]
    cov_image: Float[AnyArray, "image_width image_width"]
    cov_text: Float[AnyArray, "text_width text_width"]
    cov_cross: Float[AnyArray, "image_width text_width"]
    weights: Float[AnyArray, " 3"]
    mode: Float[AnyArray, ""]
    left_std: Float[AnyArray, ""]
    right_std: Float[AnyArray, ""]
    left: Float[AnyArray, ""]
    right: Float[AnyArray, ""]
    lowest: Float[AnyArray, ""]
    highest: Float[AnyArray, ""]


def fit_fused_similarity(
    image_features: Float[np.ndarray, "items image_width"],
    text_features: Float[np.ndarray, "items text_width"],
    *,
    weights: tuple[float, float, float] = (0.5, 0.1, 0.4),
    k_left: float = 2.0,
    k_right: float = 2.0,
    chunk: int = 1024,
) -> FusedSimilarity:
    """Statistics, and two half-Gaussians around the mode m of all off-diagonal entries of S (SSDH's fit); in float64.

    Args:
      image_features, text_features: rows of the same index are a pair; a row may be all zeros.
      weights: of S_image, S_text and (H + H^T) / 2; JDSH's for MIRFLICKR-25K. They should sum to 1.
      k_left, k_right: thresholds are m - k_left sigma_left and m + k_right sigma_right. JDSH's program has 2 and 4.
      chunk: rows of the blocks of S; time grows with items^2, memory with items + chunk^2.

    Source: our reconstruction of KDCMH; JDSH's constants are not fitted in its program.
    Raises ValueError for features that are not pairs.
    """
    if len(image_features) != len(text_features) or len(image_features) < 2:
        raise ValueError(
            f"{len(image_features)} pictures and {len(text_features)} texts; give two or more pairs, one text a picture"
        )
    x, y = unit_rows64(image_features), unit_rows64(text_features)
    m, n = x.mean(axis=0), y.mean(axis=0)
    image, text = x - m, y - n
    stats = FusedSimilarity(
        mean_image=m,
        mean_text=n,
        cov_image=image.T @ image / len(x),
        cov_text=text.T @ text / len(x),
        cov_cross=image.T @ text / len(x),
        weights=np.asarray(weights, np.float64),
        **dict.fromkeys(
            ("mode", "left_std", "right_std", "left", "right", "lowest", "highest"), np.zeros(())
        ),
    )
    fit = fit_streamed(_off_diagonal_entries(stats, x, y, chunk), first_edge=LOWEST_EDGE, bins=FUSED_BINS)
    return stats._replace(
        mode=np.asarray(fit.gaussians.mode),
        left_std=np.asarray(fit.gaussians.left_std),
        right_std=np.asarray(fit.gaussians.right_std),
        left=np.asarray(fit.gaussians.thresholds(k_left)[0]),
        right=np.asarray(fit.gaussians.thresholds(k_right)[1]),
        lowest=np.asarray(fit.lowest),
        highest=np.asarray(fit.highest),
    )


def fused_similarity(
    stats: FusedSimilarity,
    image: Float[Array, "batch image_width"],
    text: Float[Array, "batch text_width"],
) -> Float[Array, "batch batch"]:
    """S of any items, training items or not, from their features: a S_image + b S_text + g (H + H^T) / 2.

    For training items exactly the entries of the whole set's matrix. Source: JDSH (SIGIR 2020), with rows over the whole
    training set in place of the batch.
    """
    image, text = _as_rows(stats, image, text)
    with jax.default_matmul_precision("highest"):
        norm_image, norm_text = _norms(stats, image, text, jnp)
        level_image, level_text = _levels(stats, image, text)
        products = 4 * (image @ stats.cov_cross) @ text.T + level_image[:, None] * level_text
    across = products / (norm_image[:, None] * norm_text)
    a, b, g = stats.weights
    return a * scaled_cosine(image) + b * scaled_cosine(text) + g * (across + across.T) / 2


def weighted_similarity(
    stats: FusedSimilarity,
    image: Float[Array, "batch image_width"],
    text: Float[Array, "batch text_width"],
    *,
    l1: float = 0.1,
    l2: float = 0.2,
    mu: float = 1.4,
) -> Float[Array, "batch batch"]:
    """`fused_similarity` weighted beyond the fitted thresholds (`kdhash.losses.weigh_distribution`), clipped to [-1, 1]."""
    return weigh_distribution(
        fused_similarity(stats, image, text),
        left=stats.left,
        right=stats.right,
        lowest=stats.lowest,
        highest=stats.highest,
        l1=l1,
        l2=l2,
        mu=mu,
        clip=True,
    )


def similarity_threshold(
    image_codes: Float[np.ndarray, "items bits"],
    text_codes: Float[np.ndarray, "items bits"],
    pairs: int,
    *,
    chunk: int = 1024,
) -> float:
    """The similarity that the `pairs` most similar pairs of picture i with text j, i not j, reach: a share of equal bits.

    Codes are of -1 and +1. For `kdhash.losses.distilled_similarity`; pairs tied at the threshold reach it too, so that more
    than `pairs` may. Raises ValueError for more pairs than there are, or fewer than one.
    """
    items, bits = image_codes.shape
    if not 1 <= pairs <= items * (items - 1):
        raise ValueError(f"{pairs} pairs of {items} items; choose 1 to {items * (items - 1)}")
    image, text = (np.asarray(codes, np.float32) for codes in (image_codes, text_codes))
    counts = np.zeros(bits + 1, np.int64)
    for start in range(0, items, chunk):
        counts += _per_distance(image[start : start + chunk] @ text.T, bits)
    counts -= _per_distance(np.sum(image * text, axis=1), bits)
    return 1 - int(np.searchsorted(np.cumsum(counts), pairs)) / bits


def _per_distance(products: np.ndarray, bits: int) -> Int[np.ndarray, " distances"]:
    """How many of the inner products of codes are of each Hamming distance, 0 to bits. Integers: exact in float32."""
    return np.bincount(((bits - products) / 2).astype(np.int64).ravel(), minlength=bits + 1)


def _as_rows(stats: FusedSimilarity, image: Any, text: Any) -> tuple[Array, Array]:
    """Of length 1, and floats: texts may be counts of words."""
    kind = jnp.result_type(stats.mean_image)
    return unit_rows(jnp.asarray(image, kind)), unit_rows(jnp.asarray(text, kind))


def _levels(stats: FusedSimilarity, image: Any, text: Any) -> tuple[Any, Any]:
    """Means of the rows of S_image and of S_text."""
    return 2 * image @ stats.mean_image - 1, 2 * text @ stats.mean_text - 1


def _norms(stats: FusedSimilarity, image: Any, text: Any, xp: ModuleType) -> tuple[Any, Any]:
    """|row| / sqrt(N) of S_image and of S_text, for rows of length 1, in NumPy or in JAX: roots of the mean squares."""
    level_image, level_text = _levels(stats, image, text)
    spread_image = 4 * ((image @ stats.cov_image) * image).sum(axis=1)
    spread_text = 4 * ((text @ stats.cov_text) * text).sum(axis=1)
    norm_image = xp.sqrt(xp.maximum(spread_image + level_image**2, NORM_FLOOR**2))
    return norm_image, xp.sqrt(xp.maximum(spread_text + level_text**2, NORM_FLOOR**2))


def _off_diagonal_entries(
    stats: FusedSimilarity, x: np.ndarray, y: np.ndarray, chunk: int
) -> Iterator[tuple[np.ndarray, int]]:
    """The off-diagonal entries of S in blocks."""
    a, b, g = stats.weights
    norm_x, norm_y = _norms(stats, x, y, np)
    level_x, level_y = _levels(stats, x, y)
    # H = pictures texts^T
    pictures = np.column_stack([4 * x @ stats.cov_cross, level_x]) / norm_x[:, None]
    texts = np.column_stack([y, level_y]) / norm_y[:, None]

    def block(rows: slice, columns: slice) -> np.ndarray:
        within = 2 * a * (x[rows] @ x[columns].T) + 2 * b * (y[rows] @ y[columns].T) - a - b
        return within + g / 2 * (pictures[rows] @ texts[columns].T + texts[rows] @ pictures[columns].T)

    return off_diagonal(block, len(x), chunk)

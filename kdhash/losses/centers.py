"""Codes of a class close to the class's own centre: supervised losses over items and classes.

`u` are a network's real-valued outputs, `labels` rows of 0 and 1, and `centers` a code of -1 and +1 for each class, which is a
constant; `greedyhash` learns a linear classifier of the codes instead. Means are over the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from kdhash.losses.hashing import quantization, straight_through_sign
from kdhash.losses.pairwise import inner_products
from kdhash.losses.similarity import cosine, cosine_matrix


def hadamard_centers(classes: int, bits: int) -> Float[Array, "classes bits"]:
    """The first rows of [H; -H], H the Hadamard matrix in Sylvester's order: any two differ in at least half of the bits.

    Source: CSQ (Yuan et al., CVPR 2020, arXiv 1908.00347). Raises ValueError unless `bits` is a power of 2 and
    classes <= 2 bits; CSQ then draws every bit of a centre with probability 1/2 (`jax.random.rademacher`).
    """
    if bits < 1 or bits & (bits - 1) or classes > 2 * bits:
        raise ValueError(
            f"no Hadamard centres of {bits} bits for {classes} classes: bits must be a power of 2, classes <= 2 bits"
        )
    common_ones = jax.lax.population_count(jnp.arange(bits)[:, None] & jnp.arange(bits))
    half = 1.0 - 2.0 * (common_ones % 2)
    return jnp.concatenate([half, -half])[:classes]


def item_centers(
    labels: Num[Array, "batch classes"],
    centers: Num[Array, "classes bits"],
    *,
    ties: Num[Array, " bits"] | float = 1.0,
) -> Float[Array, "batch bits"]:
    """The centre of an item's class; of several classes, bit by bit the majority, and `ties` (-1 or +1) where they draw.

    An item without a label has the centre `ties`. Source: CSQ (arXiv 1908.00347).
    """
    votes = jnp.matmul(labels.astype(jnp.float32), centers.astype(jnp.float32))  # small integers: exact
    return jnp.where(votes == 0, ties, jnp.sign(votes))


def csq(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    centers: Num[Array, "classes bits"],
    *,
    ties: Num[Array, " bits"] | float = 1.0,
    quantization_weight: float = 1e-4,
) -> Float[Array, ""]:
    """Binary cross entropy of (v + 1) / 2, v = tanh(u), against the bits of the item's centre, mean over bits; and the
    weighted mean((|v| - 1)^2).

    Source: CSQ (Yuan et al., CVPR 2020, arXiv 1908.00347).
    """
    target = item_centers(labels, centers, ties=ties).astype(u.dtype)
    # (tanh(u) + 1) / 2 is sigmoid(2 u): from logits, neither logarithm meets a rounded 0.
    central = jnp.mean(jax.nn.softplus(-2 * u * target))
    return central + quantization_weight * quantization(jnp.tanh(u))


def dpn(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    centers: Num[Array, "classes bits"],
    *,
    ties: Num[Array, " bits"] | float = 1.0,
    margin: float = 1.0,
    every_class: bool = False,
    penalty: float = 0.0,
    quantization_weight: float = 0.0,
) -> Float[Array, ""]:
    """max(margin - u t, 0), t the item's centre, mean over bits; and penalty * mean(u^2), and the weighted mean((|u| - 1)^2).

    `every_class` sums over the centres of the item's classes in place of the one of their majority. Of `ternary(u)` the value
    tells how far codes with undecided bits are from their centres. Source: DPN (Fan, Ng, Ju, Zhang and Chan, IJCAI 2020), without
    either term.
    """
    if every_class:
        weights = labels.astype(u.dtype)
        # How many of the item's centres have +1 at a bit, and how many -1: no array of batch times classes times bits.
        plus = inner_products(weights, (centers.T > 0).astype(u.dtype))
        minus = jnp.sum(weights, axis=1, keepdims=True) - plus
    else:
        plus = (item_centers(labels, centers, ties=ties) > 0).astype(u.dtype)
        minus = 1 - plus
    hinge = plus * jnp.maximum(margin - u, 0) + minus * jnp.maximum(margin + u, 0)
    return jnp.mean(hinge) + penalty * jnp.mean(u * u) + quantization_weight * quantization(u)


def ternary(u: Float[Array, "*shape"], *, margin: float = 1.0) -> Float[Array, "*shape"]:
    """sign(u) where |u| > margin, else 0: an undecided bit. Its gradient is 0. Source: DPN (IJCAI 2020)."""
    return jnp.where(jnp.abs(u) > margin, jnp.sign(u), 0)


def orthohash(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    centers: Num[Array, "classes bits"],
    *,
    margin: float = 0.3,
    margin_on: str = "cosine",
    scale: float = 8.0,
    quantization_weight: float = 0.0,
) -> Float[Array, ""]:
    """Cross entropy of scale * cos(u, centre), made harder by a margin at the true classes; and the weighted
    mean(1 - cos(u, sign u)).

    `margin_on` 'cosine' subtracts the margin from the cosine, 'angle' adds it, in radians, to the angle. Source: OrthoHash
    (Hoe et al., NeurIPS 2021, arXiv 2109.14449). Raises ValueError for another `margin_on`.
    """
    cosines = cosine_matrix(u, jax.lax.stop_gradient(centers).astype(u.dtype))
    if margin_on == "cosine":
        harder = cosines - margin
    elif margin_on == "angle":
        # The arc cosine's slope is infinite at 1.
        cosines = jnp.clip(cosines, -0.99999, 0.99999)
        harder = jnp.cos(jnp.arccos(cosines) + margin)
    else:
        raise ValueError(f"margin_on is {margin_on!r}; choose 'cosine' or 'angle'")
    classification = label_cross_entropy(scale * jnp.where(labels > 0, harder, cosines), labels)
    signs = jax.lax.stop_gradient(straight_through_sign(u))
    return classification + quantization_weight * jnp.mean(1 - cosine(u, signs))


def greedyhash(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    weights: Float[Array, "classes bits"],
    bias: Float[Array, " classes"] | float = 0.0,
    *,
    quantization_weight: float = 0.1,
) -> Float[Array, ""]:
    """Cross entropy of a linear classifier of sign(u), with straight-through gradient, and the weighted mean(||u| - 1|^3).

    Source: GreedyHash (Su, Zhang, Han and Tian, NeurIPS 2018); weights and bias are learned with the network.
    """
    logits = inner_products(straight_through_sign(u), weights) + bias
    return label_cross_entropy(logits, labels) + quantization_weight * quantization(u, power=3)


def label_cross_entropy(
    logits: Float[Array, "batch classes"], labels: Num[Array, "batch classes"]
) -> Float[Array, ""]:
    """-mean of log softmax(logits) over an item's classes, mean over the batch; an item without a label adds 0."""
    share = labels / jnp.maximum(jnp.sum(labels, axis=1, keepdims=True, dtype=logits.dtype), 1)
    return -jnp.mean(jnp.sum(share * jax.nn.log_softmax(logits), axis=1))

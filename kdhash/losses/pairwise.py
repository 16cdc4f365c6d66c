"""Codes of items that share a label close together, of others apart: supervised losses over pairs.

`u` are a network's real-valued outputs and `labels` rows of 0 and 1; two items are similar when they share a label. Pairs are
the rows of `u` with themselves (the global batch, self-pairs included), or with a `memory`: the outputs last seen for every
training item and their labels, which `write_memory` keeps. A memory is a constant.

`two_sided=False` makes the second item of each pair a constant also within a batch, as programs written for a memory do.
`balanced` weights similar and dissimilar pairs so that both kinds count the same in sum.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from kdhash.losses.hashing import quantization

Memory = tuple[Float[Array, "items bits"], Num[Array, "items classes"]]


def write_memory(memory: Memory, index: Int[Array, " batch"], u: Array, labels: Array) -> Memory:
    """The memory with rows `index` overwritten by the current batch. Two equal indices: either row may stay."""
    return memory[0].at[index].set(jax.lax.stop_gradient(u)), memory[1].at[index].set(labels)


def share_a_label(
    labels: Num[Array, "rows classes"], others: Num[Array, "columns classes"]
) -> Bool[Array, "rows columns"]:
    """Whether a row of `labels` and a row of `others` have a 1 in common."""
    # Labels may be int8, in which a product over more than 127 common labels would overflow.
    return jnp.matmul(labels.astype(jnp.float32), others.T.astype(jnp.float32)) > 0


def dpsh(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    *,
    memory: Memory | None = None,
    two_sided: bool = True,
    balanced: bool = False,
    quantization_weight: float = 0.1,
) -> Float[Array, ""]:
    """mean over pairs of log(1 + e^theta) - s theta, theta = <u_i, u_j> / 2, and the weighted mean((u - sign u)^2).

    Source: DPSH (Li, Wang and Kang, IJCAI 2016, arXiv 1511.03855), with means in place of its sums.
    """
    others, similar = _pairs(u, labels, memory, two_sided)
    likelihood = _likelihood(inner_products(u, others) / 2, similar, balanced)
    return likelihood + quantization_weight * quantization(u)


def dhn(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    *,
    memory: Memory | None = None,
    two_sided: bool = True,
    balanced: bool = False,
    quantization_weight: float = 0.1,
) -> Float[Array, ""]:
    """The likelihood of `dpsh`, and the weighted mean(log cosh(|u| - 1)).

    Source: DHN (Zhu, Long, Wang and Cao, AAAI 2016), with means in place of its sums.
    """
    others, similar = _pairs(u, labels, memory, two_sided)
    likelihood = _likelihood(inner_products(u, others) / 2, similar, balanced)
    excess = jnp.abs(u) - 1
    log_cosh = jnp.logaddexp(excess, -excess) - jnp.log(2.0)  # cosh itself overflows from 89 on
    return likelihood + quantization_weight * jnp.mean(log_cosh)


def dsh(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    *,
    memory: Memory | None = None,
    two_sided: bool = True,
    balanced: bool = False,
    quantization_weight: float = 0.1,
) -> Float[Array, ""]:
    """mean over pairs of d / 2 for similar, max(2 bits - d, 0) / 2 for dissimilar, and the weighted mean(|1 - |u||).

    d is the squared Euclidean distance of the outputs, which for codes is 4 times the Hamming distance. Source: DSH (Liu, Wang,
    Shan and Chen, CVPR 2016) with its margin of 2 bits, with means in place of its sums.
    """
    others, similar = _pairs(u, labels, memory, two_sided)
    # Not by differences: a batch against a memory would be an array of batch times items times bits.
    squares = jnp.sum(u * u, axis=1)[:, None] + jnp.sum(others * others, axis=1)
    distance = squares - 2 * inner_products(u, others)
    terms = jnp.where(similar, distance, jnp.maximum(2 * u.shape[1] - distance, 0)) / 2
    return _pair_mean(terms, similar, balanced) + quantization_weight * quantization(u, power=1)


def hashnet(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    *,
    memory: Memory | None = None,
    two_sided: bool = True,
    balanced: bool = True,
    scale: float = 1.0,
    slope: float = 0.1,
    quantization_weight: float = 0.0,
) -> Float[Array, ""]:
    """The balanced mean over pairs of log(1 + e^x) - s x, x = slope <v_i, v_j>, v = tanh(scale u); a memory holds v, not u.

    And the weighted mean((|v| - 1)^2), which its source has not. Training raises `scale` step by step (continuation), so that v
    tends to the codes. Source: HashNet (Cao, Long, Wang and Yu, ICCV 2017, arXiv 1702.00758).
    """
    v = jnp.tanh(scale * u)
    others, similar = _pairs(v, labels, memory, two_sided)
    likelihood = _likelihood(slope * inner_products(v, others), similar, balanced)
    return likelihood + quantization_weight * quantization(v)


def inner_products(
    a: Float[Array, "rows width"], b: Float[Array, "columns width"]
) -> Float[Array, "rows columns"]:
    """<a_i, b_j> in the full precision of its inputs, which accelerators do not multiply in by default."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def _pairs(u: Array, labels: Array, memory: Memory | None, two_sided: bool) -> tuple[Array, Array]:
    """The second items of all pairs, and which pairs are similar."""
    if memory is not None:
        return jax.lax.stop_gradient(memory[0]), share_a_label(labels, memory[1])
    return (u if two_sided else jax.lax.stop_gradient(u)), share_a_label(labels, labels)


def _likelihood(theta: Array, similar: Array, balanced: bool) -> Float[Array, ""]:
    """mean of -log p(s | theta), p(similar) = sigmoid(theta)."""
    return _pair_mean(jax.nn.softplus(jnp.where(similar, -theta, theta)), similar, balanced)


def _pair_mean(terms: Array, similar: Array, balanced: bool) -> Float[Array, ""]:
    """The mean; balanced, the sum of the means of the similar and of the dissimilar pairs, 0 for a kind that is absent."""
    if not balanced:
        return jnp.mean(terms)
    count = jnp.sum(similar)  # an integer: half precision counts to 256 only
    means = [
        jnp.sum(jnp.where(kind, terms, 0)) / jnp.maximum(number, 1)
        for kind, number in ((similar, count), (~similar, similar.size - count))
    ]
    return means[0] + means[1]

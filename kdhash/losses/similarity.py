"""Cosines, and losses over all pairs of a batch.

Losses over pairs see the batch they are given: under a mapping over devices hand them the global batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NORM_FLOOR = 1e-8  # of torch.nn.functional.cosine_similarity: the cosine with a zero vector is 0


def unit_rows(x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    """x / max(|x|, 1e-8) along the last axis; a zero vector stays zero and has gradient zero."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    # The square root's slope at 0 is infinite; where its value is not used, it must not be taken there either.
    large = squared > NORM_FLOOR**2
    norm = jnp.sqrt(jnp.where(large, squared, 1.0))
    return jnp.where(large, x / norm, jnp.where(squared > 0, x / NORM_FLOOR, 0.0))


def cosine(a: Float[Array, "batch width"], b: Float[Array, "batch width"]) -> Float[Array, " batch"]:
    """Cosine of each row of `a` with the same row of `b`, in [-1, 1]."""
    return jnp.sum(unit_rows(a) * unit_rows(b), axis=-1)


def cosine_matrix(
    a: Float[Array, "rows width"], b: Float[Array, "columns width"]
) -> Float[Array, "rows columns"]:
    """Cosine of every row of `a` with every row of `b`, in [-1, 1]."""
    # By default accelerators multiply float32 in TF32 or bfloat16: errors near 1e-3, too much for differences of cosines.
    return jnp.matmul(unit_rows(a), unit_rows(b).T, precision=jax.lax.Precision.HIGHEST)


def relational_distillation(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch teacher_width"]
) -> Float[Array, ""]:
    """mean over all pairs of (cos(s_i, s_j) - cos(t_i, t_j))^2; the widths may differ. The teacher is a constant.

    Source: our reconstruction (of DMTH, after Deep Transfer Hashing, TCSVT 2021, where distances between the
    teacher's knowledge vectors are the signal).
    """
    teacher = jax.lax.stop_gradient(teacher)
    return jnp.mean((cosine_matrix(student, student) - cosine_matrix(teacher, teacher)) ** 2)

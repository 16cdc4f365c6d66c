"""Each item against all others of the batch. Hand these the global batch: the other items are the negatives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.losses.similarity import cosine_matrix


def info_nce(
    student: Float[Array, "batch width"],
    teacher: Float[Array, "batch width"],
    *,
    temperature: float,
    direction: str = "both",
) -> Float[Array, ""]:
    """Cross entropy of an item's own partner among all partners, on cosines / temperature; mean over the batch.

    `direction`: 'student' (each student row chooses among teacher rows), 'teacher' (each teacher row among student rows), or
    'both' (their mean). The teacher is a constant. Source: van den Oord et al. 2018 (arXiv 1807.03748), equation 4.
    Raises ValueError for another direction.
    """
    logits = cosine_matrix(student, jax.lax.stop_gradient(teacher)) / temperature
    axes = {"student": (1,), "teacher": (0,), "both": (0, 1)}
    if direction not in axes:
        raise ValueError(f"direction is {direction!r}; choose 'student', 'teacher' or 'both'")
    losses = [-jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=axis))) for axis in axes[direction]]
    return jnp.mean(jnp.stack(losses))

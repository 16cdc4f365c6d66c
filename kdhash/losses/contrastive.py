"""Each item against all others of the batch. Hand these the global batch: the other items are the negatives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.losses.hashing import straight_through_sign
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


def nt_xent(
    codes_i: Float[Array, "batch bits"], codes_j: Float[Array, "batch bits"], *, temperature: float
) -> Float[Array, ""]:
    """Of each of the 2 batch rows, the cross entropy of its item's other view among all other rows, on cosines /
    temperature; mean over the rows. Both sides are differentiated.

    Source: SimCLR (Chen et al. 2020, arXiv 2002.05709), equation 1; on binary codes that of CIBHash (Qiu et al. 2021, arXiv
    2109.06033), equation 6.
    """
    rows = jnp.concatenate([codes_i, codes_j])
    logits = cosine_matrix(rows, rows) / temperature
    others = jnp.where(jnp.eye(len(rows), dtype=bool), -jnp.inf, logits)
    partner = jnp.roll(jnp.arange(len(rows)), len(codes_i))
    positive = jnp.take_along_axis(logits, partner[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(others, axis=1) - positive)


def bernoulli_kl(
    logits_p: Float[Array, "batch bits"], logits_q: Float[Array, "batch bits"]
) -> Float[Array, ""]:
    """KL(p || q) of bits that are 1 with probability sigmoid(logits), summed over bits, mean over the batch; q is constant.

    1e-8 is added within each logarithm, as its authors do. Source: CIBHash (arXiv 2109.06033), section 3.4.
    """
    logits_q = jax.lax.stop_gradient(logits_q)

    def term(x, y):
        a, b = jax.nn.sigmoid(x), jax.nn.sigmoid(y)
        return a * (jnp.log(a + 1e-8) - jnp.log(b + 1e-8))

    # 1 - p as sigmoid(-x): XLA's sigmoid of a large x may exceed 1 by a rounding, and the logarithm of 1 - p is NaN then
    return jnp.mean(jnp.sum(term(logits_p, logits_q) + term(-logits_p, -logits_q), axis=1))


def cibhash_loss(
    logits_i: Float[Array, "batch bits"],
    logits_j: Float[Array, "batch bits"],
    *,
    temperature: float = 0.3,
    kl_weight: float = 0.001,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """NT-Xent of the binary codes of two views, sign(sigmoid(x) - 1/2) with straight-through gradient, and kl_weight times
    the mean of both KL divergences between the bits' probabilities. Returns the sum and its terms.

    Source: CIBHash (Qiu et al. 2021, arXiv 2109.06033), equation 10.
    """
    codes_i, codes_j = (straight_through_sign(jax.nn.sigmoid(x) - 0.5) for x in (logits_i, logits_j))
    contrast = nt_xent(codes_i, codes_j, temperature=temperature)
    kl = (bernoulli_kl(logits_i, logits_j) + bernoulli_kl(logits_j, logits_i)) / 2
    return contrast + kl_weight * kl, {"contrast": contrast, "kl": kl_weight * kl}

"""A student imitates a teacher, item by item. Teachers are constants: no gradient flows into them.

Each loss is a scalar, the mean over the batch; `where`, [batch] of bool, leaves items out (fill them with zeros, not NaN:
a gradient of 0 times NaN is NaN).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdhash.losses.similarity import cosine, unit_rows

Where = Bool[Array, " batch"] | None


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], *, where: Where = None
) -> Float[Array, ""]:
    """-log softmax(logits)[label], mean over the batch."""
    return _mean(-jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0], where)


def kl_divergence(
    student_logits: Float[Array, "batch classes"],
    teacher_logits: Float[Array, "batch classes"],
    *,
    temperature: float = 1.0,
    where: Where = None,
) -> Float[Array, ""]:
    """KL(softmax(t / T) || softmax(s / T)), summed over classes, mean over the batch.

    Times T^2 it is the distillation term of Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), whose gradient does not shrink
    with T: see `hinton_loss`. Some programs average over classes as well: divide by their number.
    """
    log_s = _log_softmax(student_logits, temperature)
    log_t = _log_softmax(jax.lax.stop_gradient(teacher_logits), temperature)
    # A class of probability 0 adds 0, also where its logarithm is -inf.
    terms = jnp.where(log_t > -jnp.inf, jnp.exp(log_t) * (log_t - log_s), 0.0)
    return _mean(jnp.sum(terms, axis=-1), where)


def soft_cross_entropy(
    student_logits: Float[Array, "batch classes"],
    teacher_logits: Float[Array, "batch classes"],
    *,
    temperature: float = 1.0,
    where: Where = None,
) -> Float[Array, ""]:
    """-sum softmax(t / T) log softmax(s / T), mean over the batch: KL plus the teacher's own entropy."""
    log_s = _log_softmax(student_logits, temperature)
    target = jnp.exp(_log_softmax(jax.lax.stop_gradient(teacher_logits), temperature))
    # A class of probability 0 adds 0, also where the student's logarithm is -inf.
    return _mean(-jnp.sum(jnp.where(target > 0, target * log_s, 0.0), axis=-1), where)


def hinton_loss(
    student_logits: Float[Array, "batch classes"],
    teacher_logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    temperature: float,
    alpha: float,
    where: Where = None,
) -> Float[Array, ""]:
    """(1 - alpha) CE(s, labels) + alpha T^2 KL(t || s) at temperature T. Source: Hinton et al. 2015, section 2."""
    soft = kl_divergence(student_logits, teacher_logits, temperature=temperature, where=where)
    return (1 - alpha) * cross_entropy(student_logits, labels, where=where) + alpha * temperature**2 * soft


def cosine_distance(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch width"], *, where: Where = None
) -> Float[Array, ""]:
    """1 - cos(s, t), mean over the batch, in [0, 2]."""
    return _mean(1 - cosine(student, jax.lax.stop_gradient(teacher)), where)


def code_distillation(
    student_codes: Float[Array, "batch bits"],
    teacher_codes: Float[Array, "batch bits"],
    *,
    where: Where = None,
) -> Float[Array, ""]:
    """mean(1 - cos(u_S, u_T)) on real-valued codes. Source: our reconstruction of DMTH."""
    return cosine_distance(student_codes, teacher_codes, where=where)


def squared_error(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch width"], *, where: Where = None
) -> Float[Array, ""]:
    """(s - t)^2, mean over the width and the batch. Times the width it is the sum per item."""
    return _mean(jnp.mean((student - jax.lax.stop_gradient(teacher)) ** 2, axis=-1), where)


def feature_regression(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch width"], *, where: Where = None
) -> Float[Array, ""]:
    """(s / |s| - t / |t|)^2, mean over the width and the batch: the scale of the features is free.

    Source: FitNets (Romero et al. 2015, arXiv 1412.6550) on normalised rows.
    """
    return squared_error(unit_rows(student), unit_rows(teacher), where=where)


def smooth_l1(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch width"], *, where: Where = None
) -> Float[Array, ""]:
    """d^2 / 2 where d = |s - t| < 1, else d - 1/2; mean over the width and the batch (Huber with threshold 1)."""
    d = jnp.abs(student - jax.lax.stop_gradient(teacher))
    return _mean(jnp.mean(jnp.where(d < 1, 0.5 * d * d, d - 0.5), axis=-1), where)


def attention_entropy(weights: Float[Array, "batch teachers"], *, where: Where = None) -> Float[Array, ""]:
    """-sum a log a over the teachers, in nats, mean over the batch: 0 for trust in one teacher, log T for equal trust in T.

    Subtracted from a loss it keeps attention from collapsing. `weights` are not negative and sum to 1 for each item.
    Source: our reconstruction of DMTH.
    """
    # The logarithm's slope at 0 is infinite; a weight of 0 adds 0 to the value and nothing to the gradient.
    used = weights > 0
    terms = jnp.where(used, weights * jnp.log(jnp.where(used, weights, 1.0)), 0.0)
    return _mean(-jnp.sum(terms, axis=-1), where)


def _log_softmax(logits: Float[Array, "batch classes"], temperature: float) -> Float[Array, "batch classes"]:
    # The maximum goes before the division: XLA fuses `x / T - max` into one operation that does not round x / T as `max` was
    # rounded, and at large logits the difference is no longer 0 or less.
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return jax.nn.log_softmax((logits - top) / temperature)


def _mean(values: Float[Array, " batch"], where: Where) -> Float[Array, ""]:
    """The mean of the items kept; 0 where none is."""
    if where is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(jnp.sum(where), 1)

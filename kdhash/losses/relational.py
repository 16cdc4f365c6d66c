"""A student imitates the relations between the items of a batch: the baselines of distillation on codes.

Teachers are constants: no gradient flows into them. Hand these the global batch. Unless stated otherwise the widths may differ.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdhash.losses.distillation import feature_regression, kl_divergence, smooth_l1
from kdhash.losses.similarity import cosine, cosine_matrix, unit_rows

EXACT = jax.lax.Precision.HIGHEST  # by default accelerators multiply float32 with errors near 1e-3
ANGLES_AT_ONCE = 2**24  # numbers, 64 MiB in float32


def rkd(
    student: Float[Array, "batch width"],
    teacher: Float[Array, "batch teacher_width"],
    *,
    distance: float = 25.0,
    angle: float = 50.0,
) -> Float[Array, ""]:
    """distance * rkd_distance + angle * rkd_angle.

    Source: Park et al., Relational Knowledge Distillation, CVPR 2019 (arXiv 1904.05068); the weights are BRCD's for its baseline.
    """
    return distance * rkd_distance(student, teacher) + angle * rkd_angle(student, teacher)


def rkd_distance(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch teacher_width"]
) -> Float[Array, ""]:
    """Smooth L1 between the matrices of Euclidean distances, each over its own mean; mean over all pairs, an item with itself
    included.

    The student's mean is differentiated; the distance of two equal rows is not. Source: Park et al. 2019,
    section 3.2.1.
    """
    return smooth_l1(_relative_distances(student), _relative_distances(teacher))


def rkd_angle(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch teacher_width"]
) -> Float[Array, ""]:
    """Smooth L1 between the cosines of the angles j-i-k; mean over all batch^3 triples.

    An angle at a point that coincides with one of the others is undefined: its cosine is 0 and has gradient 0. Memory: a few
    times 2^24 numbers, or batch^2 if that is more; larger batches are worked out point by point, and once more for the
    gradient. Source: Park et al. 2019, section 3.2.2.
    """
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    batch = len(student)
    at_once = max(1, ANGLES_AT_ONCE // batch**2)

    def at(point: Array) -> Array:
        return smooth_l1(_angles(student, point), _angles(teacher, point))

    if at_once >= batch:
        return jnp.mean(jax.vmap(at)(jnp.arange(batch)))
    return jnp.mean(jax.lax.map(jax.checkpoint(at), jnp.arange(batch), batch_size=at_once))


def pkt(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch teacher_width"]
) -> Float[Array, ""]:
    """KL between probabilities of neighbours, t log(t / s); mean over all pairs (over items and their neighbours).

    The probabilities of a row are its cosines with all rows, itself included, mapped to [0, 1] and divided by their sum.
    1e-7 is added to norms and within the logarithm, as its authors do.
    Source: Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018
    (arXiv 1803.10837).
    """
    s, t = _neighbours(student), _neighbours(jax.lax.stop_gradient(teacher))
    return jnp.mean(t * jnp.log((t + 1e-7) / (s + 1e-7)))


def similarity_preserving(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch teacher_width"]
) -> Float[Array, ""]:
    """(G_s - G_t)^2, mean over all pairs, where G = X X^T with rows scaled to length 1.

    Source: Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019 (arXiv 1907.09682), section 3.
    """
    return feature_regression(_gram(student), _gram(teacher))


def similarity_preserving_published(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch width"]
) -> Float[Array, ""]:
    """What the released training loop of BRCD evaluates as SP: every row as a batch of scalars; summed over the items.

    Only to reproduce that behaviour: it says nothing about pairs of items. The Gram matrix of the scalars x, its rows scaled to
    length 1, is the outer product of sign(x) and x / |x|. The squared difference of two of these is a closed form,
    |sign s|^2 + |sign t|^2 - 2 (sign s . sign t) cos(s, t), which is divided by the width squared.
    Source: `similarity_preserving` as called in model/distill_CIBHash.py of github.com/hly1998/BRCD.
    """
    teacher = jax.lax.stop_gradient(teacher)
    s, t = jnp.sign(student), jnp.sign(teacher)
    squares = jnp.sum(s * s + t * t, axis=-1) - 2 * jnp.sum(s * t, axis=-1) * cosine(student, teacher)
    return jnp.sum(squares) / student.shape[-1] ** 2


def code_kl(
    student_codes: Float[Array, "batch bits"],
    teacher_codes: Float[Array, "batch bits"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """T^2 KL(softmax(t / T) || softmax(s / T)) over the bits, mean over the batch: Hinton et al. 2015 with bits for classes."""
    return temperature**2 * kl_divergence(student_codes, teacher_codes, temperature=temperature)


def crd(
    student: Float[Array, "batch width"],
    teacher: Float[Array, "batch width"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """Contrastive representation distillation in batch form: is this pair of rows one item? Mean over the batch.

    -log h(s_i, t_i) - sum over j != i of log(1 - h(s_i, t_j)), where h = e / (e + N), N = batch - 1 is the number of negatives,
    and e = exp(cos(s_i, t_j) / temperature), divided by its mean over all pairs j != i, which is taken as a constant.

    Source: Tian, Krishnan and Isola, ICLR 2020 (arXiv 1910.10699), section 3.1. Its h is e / (e + N / M) with M the number of
    training items; the released program divides e by its mean times M, so that M falls out. (Undivided e would be of size 1
    against N / M near 0: every pair would pass for one item, and hardly anything pull a student to its teacher.) With these
    differences: the released program takes the mean of its first batch for ever, this one that of every batch. The negatives
    are the batch's other items, of any class; there is no memory bank. The linear maps before the cosines are the caller's, and
    the teacher is a constant. The released program adds the same loss with the teacher's rows as anchors; over a batch these
    are the same pairs: the sum would be twice this.
    """
    logits = cosine_matrix(student, jax.lax.stop_gradient(teacher)) / temperature
    batch = len(student)
    own = jnp.eye(batch, dtype=bool)
    if batch > 1:  # h = sigmoid(log e - log N)
        total = jax.nn.logsumexp(jnp.where(own, -jnp.inf, jax.lax.stop_gradient(logits)))
        logits = logits - (total - math.log(batch * (batch - 1))) - math.log(batch - 1)
    return jnp.sum(jax.nn.softplus(jnp.where(own, -logits, logits))) / batch


@jax.custom_vjp
def _squared_distances(rows: Float[Array, "batch width"]) -> Float[Array, "batch batch"]:
    # By differences, not by |a|^2 + |b|^2 - 2 ab: that rounds the distance of near rows away.
    return jnp.sum((rows[None, :] - rows[:, None]) ** 2, axis=-1)


def _squared_distances_forward(rows):
    return _squared_distances(rows), rows


def _squared_distances_backward(rows, upstream):
    both = upstream + upstream.T

    def along(x: Array) -> Array:  # one axis of the width: [batch]
        return 2 * jnp.sum(both * (x[:, None] - x[None, :]), axis=1)

    # axis by axis: of the whole, XLA keeps arrays of batch times batch times width
    return (jax.lax.map(along, rows.T).T,)


_squared_distances.defvjp(_squared_distances_forward, _squared_distances_backward)


def _relative_distances(rows: Float[Array, "batch width"]) -> Float[Array, "batch batch"]:
    """Distances of all pairs over their mean. Two different items are 1e-6 or more apart: a mean is never 0."""
    squared = _squared_distances(rows)
    # The square root's slope at 0 is infinite; where its value is not used, it must not be taken there either.
    apart = squared > 1e-12
    distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 1e-6)
    distances = jnp.where(jnp.eye(len(rows), dtype=bool), 0.0, distances)
    mean = jnp.sum(distances) / max(len(rows) * (len(rows) - 1), 1)
    return distances / jnp.maximum(mean, 1e-7)  # a batch of one has no pair


def _angles(rows: Float[Array, "batch width"], point: Int[Array, ""]) -> Float[Array, "batch batch"]:
    """cos of the angle at row `point` from row j to row k."""
    vertex = rows[point]
    differences = rows - vertex
    squared = jnp.sum(rows * rows, axis=-1)
    # Equal up to rounding: the direction is noise, and its gradient the inverse of that noise.
    coincide = jnp.sum(differences**2, axis=-1) <= 1e-12 * (squared + squared[point])
    directions = jnp.where(coincide[:, None], 0.0, unit_rows(differences))
    return _gram(directions)


def _neighbours(rows: Float[Array, "batch width"]) -> Float[Array, "batch batch"]:
    units = unit_rows(rows)
    norms = jnp.sum(units * rows, axis=-1, keepdims=True)  # with gradient 0 for a zero row
    units = units * (norms / (norms + 1e-7))
    cosines = jnp.matmul(units, units.T, precision=EXACT)
    similarities = jnp.maximum((cosines + 1) / 2, 0.0)  # rounding may bring a cosine below -1
    return similarities / jnp.sum(similarities, axis=1, keepdims=True)


def _gram(rows: Float[Array, "batch width"]) -> Float[Array, "batch batch"]:
    return jnp.matmul(rows, rows.T, precision=EXACT)

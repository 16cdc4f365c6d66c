"""Bit-mask robust contrastive distillation (He et al., WWW 2024, arXiv 2403.06071): a student hasher learns a teacher's codes.

All functions take the global batch. Rows u = 0 .. 2 batch - 1 are the items' student codes, then their teacher codes of the
other view. Teacher codes, clusters and masks are constants.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdhash.losses.hashing import straight_through_sign
from kdhash.losses.similarity import cosine, cosine_matrix

MASK_RULES = ("intended", "published", "none")


def bit_masks(
    codes: Float[Array, "items bits"] | Int[Array, "items bits"],
    clusters: Int[Array, " items"],
    count: int,
    *,
    margin: float = 0.5,
    rule: str = "intended",
) -> Float[Array, "clusters bits"]:
    """Which bits of each cluster are kept, 0 or 1.

    'intended', as the paper describes it: those on which a cluster of teacher codes (-1, +1) agrees, |mean| > margin.
    'published', as its program computes it: none, whatever the codes, since two branches are exchanged there. 'none': no
    mask, all bits are kept. A cluster without items keeps none. Raises ValueError for another rule.
    """
    if rule not in MASK_RULES:
        raise ValueError(f"mask rule is {rule!r}; choose one of {', '.join(MASK_RULES)}")
    if rule != "intended":
        return jnp.full((count, codes.shape[1]), float(rule == "none"))
    member = jax.nn.one_hot(clusters, count)
    # in full precision: accelerators round sums of products, and a mean may lie on the margin
    sums = jnp.matmul(member.T, codes.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    means = sums / jnp.maximum(member.sum(axis=0), 1)[:, None]
    return (jnp.abs(means) > margin).astype(jnp.float32)


def nearest_center(
    codes: Float[Array, "batch bits"], centers: Float[Array, "clusters bits"]
) -> Int[Array, " batch"]:
    """The cluster of the smallest squared Euclidean distance, the first of equals."""
    return jnp.argmin(jnp.sum((codes[:, None] - centers[None]) ** 2, axis=-1), axis=1)


def same_cluster(
    clusters: Int[Array, " batch"], other_clusters: Int[Array, " batch"]
) -> Bool[Array, "rows rows"]:
    """False negatives: whether rows u and v are of one cluster; that of an item's second view is `other_clusters`."""
    rows = jnp.concatenate([clusters, other_clusters])
    return rows[:, None] == rows[None]


def same_cluster_published(
    clusters: Int[Array, " batch"], other_clusters: Int[Array, " batch"]
) -> Bool[Array, "rows rows"]:
    """As the program of the paper has it: rows of teacher codes take the blocks of the student rows above them, so that
    their own clusters are not looked at and the matrix is not symmetric."""
    upper = same_cluster(clusters, other_clusters)[: len(clusters)]
    return jnp.concatenate([upper, upper])


def brcd_loss(
    student_codes: Float[Array, "batch bits"],
    teacher_codes: Float[Array, "batch bits"],
    teacher_codes_other: Float[Array, "batch bits"],
    *,
    alpha: Float[Array, " rows"] | float = 0.8,
    temperature: float = 0.3,
    masks: Float[Array, "batch bits"] | None = None,
    false_negatives: Bool[Array, "rows rows"] | None = None,
) -> Float[Array, ""]:
    """Contrastive distillation: cross entropy of a row's positive among its negatives, mean over the 2 batch rows.

    Args:
      student_codes, teacher_codes: of the same view of each item.
      teacher_codes_other: of the other view.
      alpha: how much of the positive is the anchor cos(student, teacher) of the item, the rest being the row's cosine
        with its partner; one number, or one for each row.
      masks: bits kept, 0 or 1, for each item, by which both kinds of rows (not anchors) are multiplied.
      false_negatives: pairs of rows that are left out of the negatives (`same_cluster`).

    Source: arXiv 2403.06071, equations 6 to 9. With masks of zeros, as in its published program, all cosines between rows
    are 0 and only the anchors are learned from.
    """
    count = len(student_codes)
    teacher_codes, teacher_codes_other = map(jax.lax.stop_gradient, (teacher_codes, teacher_codes_other))
    anchor = jnp.tile(cosine(student_codes, teacher_codes), 2) / temperature
    kept = 1.0 if masks is None else masks
    rows = jnp.concatenate([student_codes * kept, teacher_codes_other * kept])
    logits = cosine_matrix(rows, rows) / temperature
    place = jnp.arange(2 * count)
    partner = jnp.roll(place, count)
    positive = alpha * anchor + (1 - alpha) * logits[place, partner]
    left_out = partner[:, None] == place[None]
    if false_negatives is not None:
        left_out |= false_negatives
    # a row is no negative of its own: its positive takes that place, so that the matrix keeps its shape
    own = place[:, None] == place[None]
    candidates = jnp.where(own, positive[:, None], jnp.where(left_out, -jnp.inf, logits))
    return jnp.mean(jax.nn.logsumexp(candidates, axis=1) - positive)


def offset_alpha(
    clusters: Int[Array, " batch"], other_clusters: Int[Array, " batch"], alpha: float
) -> Float[Array, " rows"]:
    """alpha of each row: 1 where the item's second view has drifted to another cluster (an offset positive, of which
    nothing is to be learned but the anchor). Source: arXiv 2403.06071, section 3.4."""
    return jnp.tile(jnp.where(clusters == other_clusters, alpha, 1.0), 2)


def brcd_distillation(
    logits: Float[Array, "batch bits"],
    teacher_codes: Float[Array, "batch bits"],
    teacher_codes_other: Float[Array, "batch bits"],
    clusters: Int[Array, " batch"],
    centers: Float[Array, "clusters bits"],
    *,
    masks: Float[Array, "clusters bits"] | None = None,
    remove_false_negatives: bool = True,
    offset_positives: bool = True,
    alpha: float = 0.8,
    temperature: float = 0.3,
    published: bool = False,
) -> Float[Array, ""]:
    """`brcd_loss` of the straight-through codes of a student's `logits`, put together from the items' `clusters`.

    `published` repeats two slips of the paper's program: the second view is given to a cluster after it was masked, though the
    centres are not; and `same_cluster_published`. Source: arXiv 2403.06071, section 3.
    """
    kept = None if masks is None else masks[clusters]
    other_clusters = clusters
    if offset_positives:
        seen = teacher_codes_other * kept if published and kept is not None else teacher_codes_other
        other_clusters = nearest_center(seen, centers)
    pairs = same_cluster_published if published else same_cluster
    return brcd_loss(
        straight_through_sign(jax.nn.sigmoid(logits) - 0.5),
        teacher_codes,
        teacher_codes_other,
        alpha=offset_alpha(clusters, other_clusters, alpha),
        temperature=temperature,
        masks=kept,
        false_negatives=pairs(clusters, other_clusters) if remove_false_negatives else None,
    )

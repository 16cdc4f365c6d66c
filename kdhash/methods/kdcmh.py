"""KDCMH: pictures and texts in one code space, without labels. And the methods it is compared with, on the same networks.

Li and Wang, ICMR 2021; our reconstruction. A teacher learns the fused similarity of all training pairs' features, and
students learn the similarity of its codes. In the batch:

    'image', 'text'             [batch, width], what the networks read
    'image_seen', 'text_seen'   [batch, width], features that the similarity is taken of, for all but 'kdcmh'
    'image_code', 'text_code'   [batch, bits], -1 or +1, the teacher's, for 'kdcmh'
    'epoch'                     [batch], epochs that are over: codes tanh(sqrt(epoch + 1) u) grow towards signs (DJSRH)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdhash.losses import (
    distilled_similarity,
    djsrh_affinity,
    djsrh_loss,
    dsah_affinity,
    dsah_loss,
    jdsh_fused,
    jdsh_loss,
    kdcmh_student_loss,
    kdcmh_teacher_loss,
    scaled_cosine,
    ucch_loss,
    weigh_distribution,
)
from kdhash.methods.fused_similarity import FusedSimilarity, weighted_similarity
from kdhash.methods.interface import Batch, Method
from kdhash.models.two_towers import TwoTowers

Terms = dict[str, jax.Array]
Objective = Callable[
    [jax.Array, jax.Array, Batch], tuple[jax.Array, Terms]
]  # relaxed codes of both modalities


def two_towers(model: TwoTowers, objective: Objective, *, grow: bool = True) -> Method:
    """`encode` takes {'image': ...} or {'text': ...} and gives logits, whose signs are the bits.

    `grow`: codes are tanh(sqrt(epoch + 1) u), DJSRH's; else tanh(u). `encode` computes in float32, training in the model's
    dtype.
    """
    searcher = model.clone(dtype=jnp.float32)

    def init(rng, batch):
        return model.init(rng, batch["image"], batch["text"])

    def forward(variables, batch, keys, *, train):
        return model.apply(variables, batch["image"], batch["text"]), {}

    def loss(outputs, batch):
        scale = jnp.sqrt(batch["epoch"][:, None] + 1.0) if grow else 1.0
        image, text = (jnp.tanh(scale * outputs[f"{modality}_logits"]) for modality in ("image", "text"))
        return objective(image, text, batch)

    def encode(variables, inputs):
        (logits,) = searcher.apply(variables, **inputs).values()
        return logits

    return Method(init, forward, loss, encode)


def fused(
    similarity: FusedSimilarity,
    *,
    l1: float = 0.1,
    l2: float = 0.2,
    mu: float = 1.4,
    intra: float = 0.1,
) -> Objective:
    """The teacher's objective: the fused, distribution-weighted similarity over all training pairs."""

    def objective(image, text, batch):
        seen = batch["image_seen"], batch["text_seen"]
        affinity = weighted_similarity(similarity, *seen, l1=l1, l2=l2, mu=mu)
        return kdcmh_teacher_loss(image, text, affinity, intra=intra)

    return objective


def kdcmh(
    *,
    threshold: float | None = None,
    scale: float | None = None,
    quantization: float = 0.1,
    balance: float = 0.01,
    intra: float = 0.0,
) -> Objective:
    """The student's: the similarity of the teacher's codes, real-valued, or 1 from `threshold` on and else 0.

    Of two pairs the teacher says what share of bits is equal, those of their pictures and those of their texts.
    """

    def objective(image, text, batch):
        both = jnp.concatenate([batch["image_code"], batch["text_code"]], axis=1)
        target = distilled_similarity(both, both, threshold=threshold)
        return kdcmh_student_loss(
            image,
            text,
            target,
            quantization_weight=quantization,
            balance_weight=balance,
            shared_codes=True,
            scale=scale,
            intra=intra,
        )

    return objective


def djsrh(*, beta: float, eta: float = 0.4, mu: float = 1.5, intra: float = 0.1) -> Objective:
    """Su, Zhong and Zhang, ICCV 2019."""

    def objective(image, text, batch):
        affinity = djsrh_affinity(*_seen(batch), beta=beta, eta=eta, mu=mu)
        return djsrh_loss(image, text, affinity, intra=intra)

    return objective


def jdsh(
    similarity: FusedSimilarity, *, l1: float = 0.1, l2: float = 0.2, mu: float = 1.4, intra: float = 0.1
) -> Objective:
    """Liu et al., SIGIR 2020: fused within the batch. Thresholds are those of `similarity`, fitted over all training pairs,
    where the published program has constants for each data set."""

    def objective(image, text, batch):
        alpha, beta, gamma = similarity.weights
        fused_in_batch = jdsh_fused(*_seen(batch), alpha=alpha, beta=beta, gamma=gamma)
        affinity = weigh_distribution(
            fused_in_batch,
            left=similarity.left,
            right=similarity.right,
            lowest=similarity.lowest,
            highest=similarity.highest,
            l1=l1,
            l2=l2,
            mu=mu,
        )
        return jdsh_loss(image, text, affinity, intra=intra)

    return objective


def dsah(*, alpha: float = 0.9, scale: float = 1.5) -> Objective:
    """Yang et al., ICMR 2020, without the decoders, which do not reach the codes."""

    def objective(image, text, batch):
        s_image, s_text = _seen(batch)
        affinity = dsah_affinity(s_image, s_text, alpha=alpha, scale=scale)
        return dsah_loss(image, text, affinity, s_image, s_text, scale=scale)

    return objective


def ucch(**options: float) -> Objective:
    """Hu et al., TPAMI 2023: pairs against all others of the batch; needs no features. `options` of `losses.ucch_loss`."""
    return lambda image, text, batch: ucch_loss(image, text, **options)


def _seen(batch: Batch) -> tuple[jax.Array, jax.Array]:
    return scaled_cosine(batch["image_seen"]), scaled_cosine(batch["text_seen"])


# By the kind of a config's form. Those of FITTED take the fitted similarity first; codes of GROWING grow towards signs.
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "kdcmh": kdcmh,
    "fused": fused,
    "djsrh": djsrh,
    "jdsh": jdsh,
    "dsah": dsah,
    "ucch": ucch,
}
FITTED = ("fused", "jdsh")
GROWING = ("fused", "djsrh", "jdsh", "dsah")

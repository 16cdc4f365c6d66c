"""BRCD: an unsupervised hasher learns from the codes of another one. And what it is compared with.

He et al., WWW 2024, arXiv 2403.06071. Any base hasher on two views may be the student: its own loss stays, an objective on
the teacher's codes is added. The teacher's answers come with the batch and are constants:

    'teacher_codes_i', 'teacher_codes_j'  [batch, bits], -1 or +1, of the same views as the student's
    'teacher_features_i'                  [batch, width] where features are regressed to
    'cluster'                             [batch], of the item's unaugmented teacher code, for BRCD
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from kdhash.losses import (
    MASK_RULES,
    brcd_distillation,
    code_kl,
    crd,
    feature_regression,
    pkt,
    rkd,
    similarity_preserving,
    straight_through_sign,
)
from kdhash.methods.interface import Batch, Method

__all__ = [
    "BASELINES",
    "MASK_RULES",
    "ON_CODES",
    "Objective",
    "brcd",
    "brcd_distillation",
    "distilled",
    "on_codes",
    "regression",
]

Objective = Callable[[dict[str, jax.Array], Batch], jax.Array]


def distilled(base: Method, objective: Objective, *, weight: float = 1.0) -> Method:
    """`base` with `weight` times the objective added to its loss, as the term 'distill'."""

    def loss(outputs, batch):
        own, terms = base.loss(outputs, batch)
        term = weight * objective(outputs, batch)
        return own + term, terms | {"distill": term}

    return base._replace(loss=loss)


def brcd(centers: jax.Array, masks: jax.Array | None, **options: Any) -> Objective:
    """Bit-mask robust contrastive distillation; `options` are those of `losses.brcd_distillation`."""

    def objective(outputs, batch):
        return brcd_distillation(
            outputs["logits_i"],
            batch["teacher_codes_i"],
            batch["teacher_codes_j"],
            batch["cluster"],
            centers,
            masks=masks,
            **options,
        )

    return objective


def on_codes(loss: Callable[..., jax.Array], **options: Any) -> Objective:
    """A loss of student codes (straight-through signs) and teacher codes of the same view."""

    def objective(outputs, batch):
        codes = straight_through_sign(jax.nn.sigmoid(outputs["logits_i"]) - 0.5)
        return loss(codes, batch["teacher_codes_i"], **options)

    return objective


def regression() -> Objective:
    """A linear map of the student's features against the teacher's, both of length 1 (FitNets, arXiv 1412.6550)."""

    def objective(outputs, batch):
        width = batch["teacher_features_i"].shape[-1]
        return width * feature_regression(outputs["regressed_i"], batch["teacher_features_i"])

    return objective


# What the paper compares with, on the codes, as it does; called with the options of a config's form.
ON_CODES: dict[str, Callable[..., jax.Array]] = {
    "kl": code_kl,
    "rkd": rkd,
    "sp": similarity_preserving,
    "pkt": pkt,
    "crd": crd,
}
BASELINES: dict[str, Callable[..., Objective]] = {
    **{name: partial(on_codes, loss) for name, loss in ON_CODES.items()},
    "feature": regression,
}

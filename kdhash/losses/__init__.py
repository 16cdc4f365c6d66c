"""Pure functions of arrays: no config, no state, no input or output, no collectives."""

from kdhash.losses.brcd import (
    bit_masks,
    brcd_distillation,
    brcd_loss,
    nearest_center,
    offset_alpha,
    same_cluster,
    same_cluster_published,
)
from kdhash.losses.contrastive import bernoulli_kl, cibhash_loss, info_nce, nt_xent
from kdhash.losses.distillation import (
    attention_entropy,
    code_distillation,
    cosine_distance,
    cross_entropy,
    feature_regression,
    hinton_loss,
    kl_divergence,
    smooth_l1,
    soft_cross_entropy,
    squared_error,
)
from kdhash.losses.hashing import balance, quantization, straight_through_sign
from kdhash.losses.similarity import cosine, cosine_matrix, relational_distillation, unit_rows

__all__ = [
    "attention_entropy",
    "balance",
    "bernoulli_kl",
    "bit_masks",
    "brcd_distillation",
    "brcd_loss",
    "cibhash_loss",
    "code_distillation",
    "cosine",
    "cosine_distance",
    "cosine_matrix",
    "cross_entropy",
    "feature_regression",
    "hinton_loss",
    "info_nce",
    "kl_divergence",
    "nearest_center",
    "nt_xent",
    "offset_alpha",
    "quantization",
    "relational_distillation",
    "same_cluster",
    "same_cluster_published",
    "smooth_l1",
    "soft_cross_entropy",
    "squared_error",
    "straight_through_sign",
    "unit_rows",
]

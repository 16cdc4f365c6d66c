"""Pure functions of arrays: no config, no state, no input or output, no collectives."""

from kdhash.losses.contrastive import info_nce
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
from kdhash.losses.hashing import balance, quantization
from kdhash.losses.similarity import cosine, cosine_matrix, relational_distillation, unit_rows

__all__ = [
    "attention_entropy",
    "balance",
    "code_distillation",
    "cosine",
    "cosine_distance",
    "cosine_matrix",
    "cross_entropy",
    "feature_regression",
    "hinton_loss",
    "info_nce",
    "kl_divergence",
    "quantization",
    "relational_distillation",
    "smooth_l1",
    "soft_cross_entropy",
    "squared_error",
    "unit_rows",
]

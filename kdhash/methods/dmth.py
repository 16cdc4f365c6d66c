"""DMTH: several frozen teachers, fused by attention, teach one small student to write codes.

Salman, Taherinia, Zabihzadeh, Multimedia Tools and Applications 82 (2023), doi 10.1007/s11042-023-14761-y. The paper's formulas
are not public: those here are our reconstruction (README, "What is established and what is ours").

Two methods, trained one after the other: `fusion_teacher` on cached features, `hash_student` on pictures.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdhash.losses import (
    SUPERVISED,
    balance,
    code_distillation,
    cross_entropy,
    feature_regression,
    hadamard_centers,
    kl_divergence,
    quantization,
    relational_distillation,
)
from kdhash.methods.interface import Method
from kdhash.models.fusion import FusionTeacher
from kdhash.models.student import HashStudent

CROSS_ENTROPY = "cross_entropy"
OBJECTIVES = (
    CROSS_ENTROPY,
    *SUPERVISED,
)  # what teaches codes about classes; config.teacher.objective, config.student.objective


class LossWeights(NamedTuple):
    """How much each term counts; 0 switches it off."""

    quantization: float = 0.0
    balance: float = 0.0
    code: float = 0.0
    relation: float = 0.0
    feature: float = 0.0
    logits: float = 0.0


def fusion_teacher(
    *, bits: int, classes: int, fusion: dict[str, Any], weights: LossWeights, objective: str = CROSS_ENTROPY
) -> Method:
    """z = fuse(h_1..h_T), u_T = tanh(W z), L_T = CE + quantisation + balance. The batch: 'features' (by token: a
    teacher's view of the picture), 'label'. Another `objective` of OBJECTIVES takes the place of CE.

    Outputs per example: 'codes', 'logits', 'fused', 'attention'. `fusion` holds the fields of `models.fusion.Fusion`.
    """
    model = FusionTeacher(fusion, bits, classes, _needs_weights(objective))

    def init(rng, batch):
        return model.init(rng, batch["features"])

    def forward(variables, batch, keys, *, train):
        return model.apply(variables, batch["features"], keys if train else None), {}

    def loss(outputs, batch):
        terms = {
            objective: _class_term(objective, outputs, batch["label"]),
            **_code_terms(outputs["codes"], weights),
        }
        return sum(terms.values()), terms

    def encode(variables, features):
        return model.apply(variables, features)["codes"]

    return Method(init, forward, loss, encode)


def fusion_outputs(
    variables: Any, features: dict[str, jax.Array], *, bits: int, classes: int, fusion: dict[str, Any]
):
    """What a trained fusion teacher says of cached features: {'codes', 'logits', 'fused', 'attention'}."""
    return FusionTeacher(fusion, bits, classes).apply(variables, features)


def hash_student(
    *,
    arch: str,
    sizes: dict[str, Any],
    bits: int,
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    weights: LossWeights,
    teacher_width: int = 0,
    objective: str = CROSS_ENTROPY,
    axis_name: str | None = None,
    dtype: str = "float32",
    remat: bool = False,
    temperature: float = 4.0,
) -> Method:
    """u_S = tanh(head(net(x))); L_S = CE + code, relation, feature and logit distillation + quantisation + balance. Another
    `objective` of OBJECTIVES takes the place of CE.

    The batch: 'image' (float pictures in [0, 1]), 'label', and, where a distillation weight is not 0, the teacher's
    'teacher_codes' [batch, bits], 'teacher_fused' [batch, teacher_width] and 'teacher_logits' [batch, classes] of the same
    pictures; class probabilities are compared at `temperature`. Only the student runs at search time. Training computes in
    `dtype`; see `Method` for what stays float32. `remat`: see `models.backbones.make_backbone`.
    """
    model = HashStudent(
        arch,
        sizes,
        bits,
        classes,
        mean,
        std,
        regress_to=teacher_width if weights.feature else 0,
        give_weights=_needs_weights(objective),
        axis_name=axis_name,
        dtype=jnp.dtype(dtype),
        remat=remat,
    )
    searcher = model.clone(dtype=jnp.float32)

    def init(rng, batch):
        return model.init(rng, batch["image"])

    def forward(variables, batch, keys, *, train):
        outputs, new = model.apply(variables, batch["image"], train=train, mutable=["batch_stats"])
        return outputs, new.get("batch_stats", {})

    def loss(outputs, batch):
        codes = outputs["codes"]
        terms = {
            objective: _class_term(objective, outputs, batch["label"]),
            **_code_terms(codes, weights),
        }
        if weights.code:
            terms["code"] = weights.code * code_distillation(codes, batch["teacher_codes"])
        if weights.relation:
            terms["relation"] = weights.relation * relational_distillation(codes, batch["teacher_codes"])
        if weights.feature:
            terms["feature"] = weights.feature * feature_regression(outputs["fused"], batch["teacher_fused"])
        if weights.logits:
            soft = kl_divergence(outputs["logits"], batch["teacher_logits"], temperature=temperature)
            terms["logits"] = weights.logits * temperature**2 * soft
        return sum(terms.values()), terms

    def encode(variables, pictures):
        return searcher.apply(variables, pictures)["codes"]

    return Method(init, forward, loss, encode)


def class_centers(classes: int, bits: int) -> jax.Array:
    """A code for each class, [classes, bits]: rows of a Hadamard matrix where there is one, else random ones, always the same."""
    if bits & (bits - 1) == 0 and classes <= 2 * bits:
        return hadamard_centers(classes, bits)
    return jax.random.rademacher(jax.random.key(0), (classes, bits), jnp.float32)


def _needs_weights(objective: str) -> bool:
    return objective != CROSS_ENTROPY and SUPERVISED[objective].centers == "learned"


def _class_term(objective: str, outputs: dict[str, jax.Array], labels: jax.Array) -> jax.Array:
    logits = outputs["logits"]
    if objective == CROSS_ENTROPY:
        return cross_entropy(logits, labels)
    classes, bits = logits.shape[1], outputs["unbounded"].shape[1]
    # the mean of equal copies is one of them, and its gradient that of the weights
    centers = {
        "none": lambda: None,
        "fixed": lambda: class_centers(classes, bits),
        "learned": lambda: outputs["weights"].mean(axis=0),
    }[SUPERVISED[objective].centers]()
    return SUPERVISED[objective](outputs["unbounded"], jax.nn.one_hot(labels, classes), centers)


def _code_terms(codes: jax.Array, weights: LossWeights) -> dict[str, jax.Array]:
    terms = {}
    if weights.quantization:
        terms["quantization"] = weights.quantization * quantization(codes)
    if weights.balance:
        terms["balance"] = weights.balance * balance(codes)
    return terms

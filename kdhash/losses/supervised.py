"""Supervised hashing losses, chosen by name and called alike: SUPERVISED[name](u, labels, centers, quantization_weight=...)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Array, Float, Num

from kdhash.losses.centers import csq, dpn, greedyhash, label_cross_entropy, orthohash
from kdhash.losses.hashing import quantization
from kdhash.losses.pairwise import dhn, dpsh, dsh, hashnet, inner_products
from kdhash.losses.unsupervised import bihalf_codes


def bihalf_supervised(
    u: Float[Array, "batch bits"],
    labels: Num[Array, "batch classes"],
    weights: Float[Array, "classes bits"],
    *,
    quantization_weight: float = 0.0,
    gamma: float = 6.0,
) -> Float[Array, ""]:
    """Cross entropy of a linear classifier of `bihalf_codes`, and the weighted mean((|u| - 1)^2).

    Source: our adaptation to labels of Bi-half Net (Li and van Gemert, AAAI 2021, arXiv 2012.12334).
    """
    logits = inner_products(bihalf_codes(u, gamma), weights)
    return label_cross_entropy(logits, labels) + quantization_weight * quantization(u)


@dataclass(frozen=True)
class SupervisedLoss:
    """A loss of outputs and labels. `centers` tells what its third argument is:

    'none'     it is ignored and may be left out: pairs of the batch decide
    'fixed'    a code of -1 and +1 for each class, such as `hadamard_centers`
    'learned'  the weights of a linear classifier of the codes, trained with the network (the transpose of a Flax kernel)
    """

    loss: Callable[..., Float[Array, ""]]
    centers: Literal["none", "fixed", "learned"]

    def __call__(
        self,
        u: Float[Array, "batch bits"],
        labels: Num[Array, "batch classes"],
        centers: Num[Array, "classes bits"] | None = None,
        *,
        quantization_weight: float | None = None,
    ) -> Float[Array, ""]:
        """`u` before any tanh or sign, the code being sign(u); `labels` rows of 0 and 1. Hand it the global batch.

        Without `quantization_weight` it is that of the loss's source, with all other numbers at their defaults; choose them
        with the loss itself. Raises ValueError where the centres are missing or have another shape.
        """
        weight = {} if quantization_weight is None else {"quantization_weight": quantization_weight}
        if self.centers == "none":
            return self.loss(u, labels, **weight)
        shape = (labels.shape[1], u.shape[1])
        if centers is None or centers.shape != shape:
            found = "none" if centers is None else f"an array {centers.shape}"
            raise ValueError(
                f"centers is {found}; {self.loss.__name__} needs {self.centers} ones, an array {shape}"
            )
        return self.loss(u, labels, centers, **weight)


SUPERVISED: dict[str, SupervisedLoss] = {
    "dpsh": SupervisedLoss(dpsh, "none"),
    "dhn": SupervisedLoss(dhn, "none"),
    "dsh": SupervisedLoss(dsh, "none"),
    "hashnet": SupervisedLoss(hashnet, "none"),
    "greedyhash": SupervisedLoss(greedyhash, "learned"),
    "csq": SupervisedLoss(csq, "fixed"),
    "dpn": SupervisedLoss(dpn, "fixed"),
    "orthohash": SupervisedLoss(orthohash, "fixed"),
    "bihalf": SupervisedLoss(bihalf_supervised, "learned"),
}

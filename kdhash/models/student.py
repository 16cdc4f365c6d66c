"""The student: a small network, a hash head, and where asked a regression to the teacher's fused feature."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.backbones import make_backbone
from kdhash.models.hash_head import HashHead


class HashStudent(nn.Module):
    """Pictures to codes.

    Returns {'codes': [batch, bits] in (-1, 1), 'logits': [batch, classes], 'features': [batch, width]}, and 'fused'
    [batch, regress_to] where that is not 0. The network computes in `dtype`, the head in float32 on float32 features.
    Raises ValueError for pictures that are too small for the network.
    """

    arch: str
    sizes: dict[str, Any]
    bits: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    regress_to: int = 0
    give_weights: bool = False
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pictures: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        x = (pictures - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        net = make_backbone(
            self.arch, axis_name=self.axis_name, dtype=self.dtype, remat=self.remat, **self.sizes
        )
        seen = net(x, train=train)
        if "spatial" in seen and not seen["spatial"].size:
            raise ValueError("nothing is left of a picture's map; use larger pictures or fewer stages")
        features = seen["features"]
        outputs = HashHead(self.bits, self.classes, self.give_weights, name="head")(features)
        if self.regress_to:
            outputs["fused"] = nn.Dense(self.regress_to, name="regressor")(features)
        return outputs | {"features": features}

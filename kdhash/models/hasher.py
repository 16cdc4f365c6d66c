"""An unsupervised hasher: a backbone, or features as they are, and a head whose signs are the bits."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.backbones import make_backbone


class Hasher(nn.Module):
    """Pictures (with `arch`) or features (arch '') to logits of bits.

    `hidden` is the width of a layer with ReLU between features and bits, 0 for none. Pictures in [0, 1] are normalised by
    `mean` and `std`. Returns {'logits': [batch, bits], 'features': [batch, width]}, and where that is not 0 'regressed'
    [batch, regress_to], a linear map of what the bits are read from. The backbone and the hidden layer compute in `dtype`;
    what comes out of them is float32, and so is all else.
    """

    bits: int
    hidden: int = 0
    regress_to: int = 0
    arch: str = ""
    sizes: Any = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *inputs"], *, train: bool = False) -> dict[str, Array]:
        if self.arch:
            x = (x - jnp.asarray(self.mean)) / jnp.asarray(self.std)
            net = make_backbone(
                self.arch, axis_name=self.axis_name, dtype=self.dtype, remat=self.remat, **dict(self.sizes)
            )
            x = net(x, train=train)["features"]
            # as a frozen network's features are standardised: their mean would give all pictures one code
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                use_scale=False,
                use_bias=False,
                axis_name=self.axis_name,
                name="standardize",
            )(x)
        outputs = {"features": x}
        if self.hidden:
            x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x)).astype(jnp.float32)
        if self.regress_to:
            outputs["regressed"] = nn.Dense(self.regress_to, name="regressor")(x)
        return outputs | {"logits": nn.Dense(self.bits, name="bits")(x)}

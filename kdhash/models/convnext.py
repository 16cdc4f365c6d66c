"""ConvNeXt: Liu et al. 2022, arXiv 2201.03545."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import DepthwiseConv
from kdhash.models.transformer import Mlp

EPSILON = 1e-6


class ConvNeXt(nn.Module):
    """Stages of depthwise 7x7 convolution, layer norm and an MLP at every place; between stages width grows, sides halve.

    'features' are the last norm of the mean over places, 'spatial' the map before. `train` and `axis_name` change nothing:
    there is neither batch norm nor dropout.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        x = self._norm("stem_norm")(self._smaller(self.widths[0], 4, "stem")(x))
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if i:
                x = self._smaller(width, 2, f"smaller{i}")(self._norm(f"smaller{i}_norm")(x))
            for j in range(depth):
                name = f"stage{i}_block{j}"
                new = DepthwiseConv(7, 1, 3, self.dtype, use_bias=True, name=f"{name}_depthwise")(x)
                new = self._norm(f"{name}_norm")(new)
                new = Mlp(4 * width, "gelu", self.dtype, name=f"{name}_mlp")(new)
                scale = self.param(f"{name}_scale", nn.initializers.constant(1e-6), (width,))
                x = x + new * scale.astype(self.dtype)
        spatial = x.astype(jnp.float32)
        features = self._norm("norm")(spatial.mean(axis=(1, 2))).astype(jnp.float32)
        outputs = {"features": features, "spatial": spatial}
        if self.classes is not None:
            outputs["logits"] = nn.Dense(self.classes, name="classifier")(features)
        return outputs

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(EPSILON, dtype=self.dtype, name=name)

    def _smaller(self, width: int, factor: int, name: str) -> nn.Conv:
        square = (factor, factor)
        return nn.Conv(width, square, square, padding="VALID", dtype=self.dtype, name=name)

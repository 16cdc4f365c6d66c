"""DenseNet: Huang et al. 2017, arXiv 1608.06993."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import ConvNorm, batch_norm, pooled_outputs


class DenseNet(nn.Module):
    """Layers of norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution, each joined to all that came before it in its
    block; between blocks width and sides are halved."""

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    stem_width: int = 64
    bottleneck: int = 4  # of the 1x1 convolution, in growths
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        def norm(x: Array, name: str) -> Array:
            x = batch_norm(x, train=train, axis_name=self.axis_name, dtype=self.dtype, name=name)
            return nn.relu(x)

        def conv(x: Array, width: int, kernel: int, name: str) -> Array:
            return nn.Conv(
                width, (kernel, kernel), padding=kernel // 2, use_bias=False, dtype=self.dtype, name=name
            )(x)

        x = ConvNorm(self.stem_width, 7, stride=2, axis_name=self.axis_name, dtype=self.dtype, name="stem")(
            x, train=train
        )
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for i, layers in enumerate(self.blocks):
            if i:
                x = conv(norm(x, f"transition{i}_norm"), x.shape[-1] // 2, 1, f"transition{i}_conv")
                x = nn.avg_pool(x, (2, 2), (2, 2))
            for j in range(layers):
                name = f"block{i}_layer{j}"
                new = conv(norm(x, f"{name}_norm1"), self.bottleneck * self.growth, 1, f"{name}_conv1")
                new = conv(norm(new, f"{name}_norm2"), self.growth, 3, f"{name}_conv2")
                x = jnp.concatenate([x, new], axis=-1)
        return pooled_outputs(norm(x, "norm"), self.classes)

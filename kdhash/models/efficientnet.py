"""EfficientNet: Tan & Le 2019, arXiv 1905.11946."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import ConvNorm, InvertedResidual, make_divisible, pooled_outputs, run_block

# Expansion, kernel, stride of the first, width, number of blocks: B0's, from which all others are scaled.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNet(nn.Module):
    """Stages of inverted residuals with squeeze and excitation, swish; wider and deeper by two factors.

    `same_padding` is TensorFlow's rule, as published first; False pads as PyTorch does.
    """

    wider: float = 1.0
    deeper: float = 1.0
    same_padding: bool = False
    epsilon: float = 1e-5
    classes: int | None = None
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        common = {
            "padding": "SAME" if self.same_padding else None,
            "activation": "swish",
            "epsilon": self.epsilon,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }

        def width_of(channels: int) -> int:
            return make_divisible(channels * self.wider, 8, 8)

        x = ConvNorm(width_of(32), 3, 2, **common, name="stem")(x, train=train)
        for i, (expansion, kernel, stride, channels, _) in enumerate(STAGES):
            for j in range(depths(self.deeper)[i]):
                block = InvertedResidual(
                    expansion * x.shape[-1],
                    width_of(channels),
                    kernel,
                    stride if j == 0 else 1,
                    squeeze=max(1, x.shape[-1] // 4),
                    **common,
                    name=f"stage{i}_block{j}",
                )
                x = run_block(block, x, remat=self.remat, train=train)
        x = ConvNorm(width_of(1280), 1, **common, name="last")(x, train=train)
        return pooled_outputs(x, self.classes)


def depths(deeper: float) -> list[int]:
    """Blocks in each stage."""
    return [math.ceil(deeper * repeats) for *_, repeats in STAGES]

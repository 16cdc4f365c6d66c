"""MobileNetV1 and V2: depthwise and pointwise convolutions."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import ConvNorm, pooled_outputs


class MobileNetV1(nn.Module):
    """Howard et al. 2017 (arXiv 1704.04861): 13 pairs of a depthwise 3x3 and a pointwise convolution.

    Returns {'features': [batch, width], 'spatial': [batch, h / 32, w / 32, width]}, and 'logits' [batch, classes] where
    `classes` is given. `same_padding` is TensorFlow's rule, as published; False pads as PyTorch does.
    """

    multiplier: float = 1.0
    min_width: int = 8
    same_padding: bool = True
    epsilon: float = 1e-3
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        def unit(name: str, width: int, kernel: int, stride: int = 1, groups: int = 1) -> ConvNorm:
            return ConvNorm(
                width,
                kernel,
                stride,
                groups,
                padding="SAME" if self.same_padding else None,
                activation="relu6",
                epsilon=self.epsilon,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )

        def width_of(channels: int) -> int:
            return max(int(channels * self.multiplier), self.min_width)

        x = unit("stem", width_of(32), 3, 2)(x, train=train)
        for i, (stride, channels) in enumerate(V1_BLOCKS):
            x = unit(f"block{i}_depthwise", x.shape[-1], 3, stride, x.shape[-1])(x, train=train)
            x = unit(f"block{i}_pointwise", width_of(channels), 1)(x, train=train)
        return pooled_outputs(x, self.classes)


# Stride of the depthwise convolution, width of the pointwise one.
V1_BLOCKS = (
    ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)) + ((1, 512),) * 5 + ((2, 1024), (1, 1024))
)
# Width, stride of the first, number of blocks.
V2_STAGES = ((24, 2, 2), (32, 2, 3), (64, 2, 4), (96, 1, 3), (160, 2, 3), (320, 1, 1))


class MobileNetV2(nn.Module):
    """Sandler et al. 2018 (arXiv 1801.04381): inverted residuals with linear bottlenecks.

    Outputs as MobileNetV1's; the width is 1280 (for a multiplier below 1 too, where `wide_output`).
    """

    multiplier: float = 1.0
    divisor: int = 8
    min_width: int = 8
    expansion: float = 6.0
    wide_output: bool = True
    same_padding: bool = True
    epsilon: float = 1e-3
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        def unit(
            name: str, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str = "relu6"
        ) -> ConvNorm:
            return ConvNorm(
                width,
                kernel,
                stride,
                groups,
                padding="SAME" if self.same_padding else None,
                activation=act,
                epsilon=self.epsilon,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )

        def width_of(channels: float) -> int:
            return make_divisible(round(channels), self.divisor, self.min_width)

        stem = width_of(32 * self.multiplier)
        x = unit("stem", stem, 3, 2)(x, train=train)
        x = unit("stem_depthwise", stem, 3, 1, stem)(x, train=train)
        x = unit("stem_project", width_of(16 * self.multiplier), act="none")(x, train=train)
        block = 0
        for channels, first, repeats in V2_STAGES:
            for i in range(repeats):
                width, inner = width_of(channels * self.multiplier), width_of(x.shape[-1] * self.expansion)
                y = unit(f"block{block}_expand", inner)(x, train=train)
                y = unit(f"block{block}_depthwise", inner, 3, first if i == 0 else 1, inner)(y, train=train)
                y = unit(f"block{block}_project", width, act="none")(y, train=train)
                x = x + y if x.shape == y.shape else y
                block += 1
        last = 1280 if self.wide_output and self.multiplier < 1 else width_of(1280 * self.multiplier)
        x = unit("last", last)(x, train=train)
        return pooled_outputs(x, self.classes)


def make_divisible(channels: float, divisor: int, smallest: int) -> int:
    """`channels` rounded to a multiple of `divisor`, not below `smallest`, and not more than 10 % down."""
    rounded = max(smallest, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded

"""MobileNets: depthwise and pointwise convolutions; V2 and V3 make inverted residuals of them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import ConvNorm, InvertedResidual, make_divisible, pooled_outputs, run_block


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
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        common = {
            "padding": "SAME" if self.same_padding else None,
            "activation": "relu6",
            "epsilon": self.epsilon,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }

        def width_of(channels: float) -> int:
            return make_divisible(round(channels), self.divisor, self.min_width)

        x = ConvNorm(width_of(32 * self.multiplier), 3, 2, **common, name="stem")(x, train=train)
        first = width_of(16 * self.multiplier)
        block = InvertedResidual(x.shape[-1], first, 3, 1, **common, name="block0")
        x = run_block(block, x, remat=self.remat, train=train)
        number = 1
        for channels, stride, repeats in V2_STAGES:
            for i in range(repeats):
                inner, width = width_of(x.shape[-1] * self.expansion), width_of(channels * self.multiplier)
                block = InvertedResidual(
                    inner, width, 3, stride if i == 0 else 1, **common, name=f"block{number}"
                )
                x = run_block(block, x, remat=self.remat, train=train)
                number += 1
        last = 1280 if self.wide_output and self.multiplier < 1 else width_of(1280 * self.multiplier)
        x = ConvNorm(last, 1, **common, name="last")(x, train=train)
        return pooled_outputs(x, self.classes)


# Kernel, inner width, width, squeeze, activation, stride; the groups are timm's stages.
V3_LARGE = (
    ((3, 16, 16, False, "relu", 1),),
    ((3, 64, 24, False, "relu", 2), (3, 72, 24, False, "relu", 1)),
    ((5, 72, 40, True, "relu", 2), (5, 120, 40, True, "relu", 1), (5, 120, 40, True, "relu", 1)),
    (
        (3, 240, 80, False, "hard_swish", 2),
        (3, 200, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
    ),
    ((3, 480, 112, True, "hard_swish", 1), (3, 672, 112, True, "hard_swish", 1)),
    (
        (5, 672, 160, True, "hard_swish", 2),
        (5, 960, 160, True, "hard_swish", 1),
        (5, 960, 160, True, "hard_swish", 1),
    ),
)
V3_SMALL = (
    ((3, 16, 16, True, "relu", 2),),
    ((3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1)),
    (
        (5, 96, 40, True, "hard_swish", 2),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 240, 40, True, "hard_swish", 1),
    ),
    ((5, 120, 48, True, "hard_swish", 1), (5, 144, 48, True, "hard_swish", 1)),
    (
        (5, 288, 96, True, "hard_swish", 2),
        (5, 576, 96, True, "hard_swish", 1),
        (5, 576, 96, True, "hard_swish", 1),
    ),
)
# Stages, width of the last convolution, width of the dense layer.
V3_LAYOUTS = {"large": (V3_LARGE, 960, 1280), "small": (V3_SMALL, 576, 1024)}


class MobileNetV3(nn.Module):
    """Howard et al. 2019 (arXiv 1905.02244): inverted residuals, some with squeeze and excitation; hard swish.

    'features' are those of the dense layer that the classifier reads, 'spatial' the last convolution's map.
    """

    layout: str = "large"
    same_padding: bool = False
    epsilon: float = 1e-5
    classes: int | None = None
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        stages, last, hidden = V3_LAYOUTS[self.layout]
        common = {
            "padding": "SAME" if self.same_padding else None,
            "epsilon": self.epsilon,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }
        x = ConvNorm(16, 3, 2, activation="hard_swish", **common, name="stem")(x, train=train)
        rows = [row for stage in stages for row in stage]
        for i, (kernel, inner, width, squeezes, activation, stride) in enumerate(rows):
            block = InvertedResidual(
                inner,
                width,
                kernel,
                stride,
                squeeze=make_divisible(inner / 4, 8, 8) if squeezes else 0,
                squeeze_activation="relu",
                gate="hard_sigmoid",
                activation=activation,
                **common,
                name=f"block{i}",
            )
            x = run_block(block, x, remat=self.remat, train=train)
        x = ConvNorm(last, 1, activation="hard_swish", **common, name="last")(x, train=train)
        spatial = x.astype(jnp.float32)
        features = nn.Dense(hidden, dtype=self.dtype, name="hidden")(spatial.mean(axis=(1, 2)))
        features = nn.hard_swish(features).astype(jnp.float32)
        outputs = {"features": features, "spatial": spatial}
        if self.classes is not None:
            outputs["logits"] = nn.Dense(self.classes, name="classifier")(features)
        return outputs

"""ResNet with an ImageNet stem: He et al. 2016 (arXiv 1512.03385), in PyTorch's form (stride in the 3x3 convolution)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import ConvNorm, pooled_outputs, run_block


class ResNet(nn.Module):
    """Four stages of basic or bottleneck blocks; also ResNeXt and Wide ResNet by `groups` and `group_width`.

    Returns {'features': [batch, width], 'spatial': [batch, h / 32, w / 32, width]}, and 'logits' [batch, classes] where
    `classes` is given; width is 512 for basic blocks, 2048 for bottlenecks. `stem` 'cifar' is a 3x3 convolution without
    pooling, for pictures of 32 pixels.
    """

    depths: tuple[int, ...]
    block: str = "bottleneck"  # or 'basic'
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of the 3x3 convolutions
    stem_width: int = 64
    stem: str = "imagenet"
    groups: int = 1
    group_width: int = 64
    classes: int | None = None
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        if self.stem == "cifar":
            x = ConvNorm(self.stem_width, 3, name="stem", **common)(x, train=train)
        else:
            x = ConvNorm(self.stem_width, 7, 2, name="stem", **common)(x, train=train)
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        block = BasicBlock if self.block == "basic" else Bottleneck
        extra = (
            {}
            if self.block == "basic"
            else {"groups": self.groups, "inner": self.group_width * self.groups / 64}
        )
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                residual = block(width, stride, name=f"stage{stage}_block{i}", **extra, **common)
                x = run_block(residual, x, remat=self.remat, train=train)
        return pooled_outputs(x, self.classes)


class BasicBlock(nn.Module):
    width: int
    stride: int
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool) -> Float[Array, "batch h2 w2 c2"]:
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        y = ConvNorm(self.width, 3, self.stride, name="conv0", **common)(x, train=train)
        y = ConvNorm(self.width, 3, activation="none", name="conv1", **common)(y, train=train)
        return nn.relu(y + _shortcut(x, y, self.stride, train, common))


class Bottleneck(nn.Module):
    width: int
    stride: int
    groups: int
    inner: float  # width of the 3x3 convolution over `width`
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool) -> Float[Array, "batch h2 w2 c2"]:
        common = {"axis_name": self.axis_name, "dtype": self.dtype}
        inner = int(self.width * self.inner)
        y = ConvNorm(inner, 1, name="conv0", **common)(x, train=train)
        y = ConvNorm(inner, 3, self.stride, self.groups, name="conv1", **common)(y, train=train)
        y = ConvNorm(4 * self.width, 1, activation="none", name="conv2", **common)(y, train=train)
        return nn.relu(y + _shortcut(x, y, self.stride, train, common))


def _shortcut(x: Array, y: Array, stride: int, train: bool, common: dict[str, Any]) -> Array:
    """x itself, or a 1x1 projection where the shape changes (option B)."""
    if x.shape == y.shape:
        return x
    return ConvNorm(y.shape[-1], 1, stride, activation="none", name="shortcut", **common)(x, train=train)

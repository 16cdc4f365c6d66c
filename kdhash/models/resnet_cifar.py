"""The CIFAR form of ResNet, as teacher and as student."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import batch_norm, pooled_outputs, run_block


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a parameter-free shortcut (option A of the paper)."""

    width: int
    stride: int
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool) -> Float[Array, "batch h2 w2 width"]:
        def conv(x, stride):
            # Explicit padding: SAME pads a stride-2 convolution on the other side than PyTorch does.
            return nn.Conv(self.width, (3, 3), stride, padding=1, use_bias=False, dtype=self.dtype)(x)

        def norm(x):
            return batch_norm(x, train=train, axis_name=self.axis_name, dtype=self.dtype)

        y = nn.relu(norm(conv(x, self.stride)))
        y = norm(conv(y, 1))
        if x.shape[-1] != self.width or self.stride != 1:
            x = x[:, :: self.stride, :: self.stride, :]
            gap = self.width - x.shape[-1]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (gap // 2, gap - gap // 2)))
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """ResNet of He et al. 2016 (arXiv 1512.03385), section 4.2: depth 6n + 2, three stages.

    Returns {'features': [batch, 4 * width], 'spatial': [batch, h, w, 4 * width], 'logits': [batch, classes]};
    'logits' only where `classes` is given. Raises ValueError for a depth that is not 6n + 2.
    """

    depth: int
    width: int = 16
    classes: int | None = None
    axis_name: str | None = None  # the mapped axis over which batch norm averages; None under jit
    remat: bool = False  # see `blocks.run_block`
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        if (self.depth - 2) % 6:
            raise ValueError(
                f"depth {self.depth} of a CIFAR ResNet must be 6n + 2, such as 8, 20, 32, 44 or 56"
            )
        x = nn.Conv(self.width, (3, 3), padding=1, use_bias=False, dtype=self.dtype)(x)
        x = nn.relu(batch_norm(x, train=train, axis_name=self.axis_name, dtype=self.dtype))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                residual = BasicBlock(
                    self.width * 2**stage,
                    stride,
                    self.axis_name,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )
                x = run_block(residual, x, remat=self.remat, train=train)
        return pooled_outputs(x, self.classes)

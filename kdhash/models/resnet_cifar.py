"""The CIFAR form of ResNet, as teacher and as student."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


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
                x = BasicBlock(
                    self.width * 2**stage,
                    stride,
                    self.axis_name,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x, train=train)
        spatial = x.astype(jnp.float32)
        outputs = {"features": spatial.mean(axis=(1, 2)), "spatial": spatial}
        if self.classes is not None:
            outputs["logits"] = nn.Dense(self.classes, name="classifier")(outputs["features"])
        return outputs


def batch_norm(x: Array, *, train: bool, axis_name: str | None, dtype: Any) -> Array:
    """Batch norm with PyTorch's constants; statistics over the global batch (see `axis_name`).

    To be called inside a compact module."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, axis_name=axis_name, dtype=dtype
    )(x)

"""Small networks for small pictures: teachers of the quickstart, and simple students."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import batch_norm


class ConvNet(nn.Module):
    """Plain 3x3 convolutions with batch norm, a max pool after every second one, mean-pooled (VGG style).

    Returns {'features': [batch, widths[-1]]} and 'logits' [batch, classes] where `classes` is given.
    """

    widths: tuple[int, ...] = (32, 32, 64, 64)
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        for i, width in enumerate(self.widths):
            x = nn.Conv(width, (3, 3), padding=1, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(batch_norm(x, train=train, axis_name=self.axis_name, dtype=self.dtype))
            if i % 2 and min(x.shape[1:3]) >= 2:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return _with_logits(x.astype(jnp.float32).mean(axis=(1, 2)), self.classes)


class Mlp(nn.Module):
    """Dense layers on the flattened picture, each with batch norm.

    Returns {'features': [batch, widths[-1]]} and 'logits' [batch, classes] where `classes` is given.
    """

    widths: tuple[int, ...] = (256, 64)
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.Dense(width, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(batch_norm(x, train=train, axis_name=self.axis_name, dtype=self.dtype))
        return _with_logits(x.astype(jnp.float32), self.classes)


def _with_logits(features: Array, classes: int | None) -> dict[str, Array]:
    if classes is None:
        return {"features": features}
    return {"features": features, "logits": nn.Dense(classes, name="classifier")(features)}

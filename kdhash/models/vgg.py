"""VGG, with and without batch norm: Simonyan & Zisserman 2015, arXiv 1409.1556."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdhash.models.blocks import batch_norm

# convolutions in each of the five stages
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
SIDE = 7  # of the map that the first dense layer reads: that of pictures of 224 pixels


class Vgg(nn.Module):
    """Stages of 3x3 convolutions, each ended by pooling, and two dense layers that read the 7x7 map in its order.

    Other pictures than those of 224 pixels: torchvision pools their map to 7x7; timm (`convolve`) moves the dense layers
    over a larger map and averages what they say. 'features' are the second dense layer's, [batch, hidden].
    """

    depth: int = 16
    norm: bool = False
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    convolve: bool = False
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        number = 0
        for width, convolutions in zip(self.widths, DEPTHS[self.depth], strict=True):
            for _ in range(convolutions):
                x = nn.Conv(width, (3, 3), padding=1, dtype=self.dtype, name=f"conv{number}")(x)
                if self.norm:
                    x = batch_norm(
                        x, train=train, axis_name=self.axis_name, dtype=self.dtype, name=f"norm{number}"
                    )
                x = nn.relu(x)
                number += 1
            x = nn.max_pool(x, (2, 2), (2, 2))
        spatial = x.astype(jnp.float32)
        height, width = x.shape[1:3]
        sides = (max(height, SIDE), max(width, SIDE)) if self.convolve else (SIDE, SIDE)
        x = adaptive_average_pool(x, sides)
        # The first dense layer as the convolution that it is, of the size of its map.
        x = nn.Conv(self.hidden, (SIDE, SIDE), padding="VALID", dtype=self.dtype, name="fc1")(x)
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="fc2")(nn.relu(x)))
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        outputs = {"features": features, "spatial": spatial}
        if self.classes is not None:
            outputs["logits"] = nn.Dense(self.classes, name="classifier")(features)
        return outputs


def adaptive_average_pool(
    x: Float[Array, "batch h w c"], sides: tuple[int, int]
) -> Float[Array, "batch h2 w2 c"]:
    """PyTorch's: cell i of n averages the places from floor(i h / n) to ceil((i + 1) h / n)."""
    for axis, wanted in ((1, sides[0]), (2, sides[1])):
        length = x.shape[axis]
        if length == wanted:
            continue
        cells, places = np.arange(wanted)[:, None], np.arange(length)
        inside = (places >= cells * length // wanted) & (places < -(-(cells + 1) * length // wanted))
        weights = jnp.asarray(inside / inside.sum(axis=1, keepdims=True), x.dtype)
        x = jnp.moveaxis(jnp.tensordot(weights, x, axes=(1, axis)), 0, axis)
    return x

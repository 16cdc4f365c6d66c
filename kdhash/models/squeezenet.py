"""SqueezeNet 1.0 and 1.1: Iandola et al. 2016 (arXiv 1602.07360), in torchvision's form."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

# Per version: width, kernel of the stem; (squeeze, expand) of the fire modules, None for a max pool.
LAYOUTS: dict[str, tuple[tuple[int, int], tuple[tuple[int, int] | None, ...]]] = {
    "1_0": (
        (96, 7),
        (None, (16, 64), (16, 64), (32, 128), None, (32, 128), (48, 192), (48, 192), (64, 256), None, (64, 256)),
    ),
    "1_1": (
        (64, 3),
        (None, (16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256)),
    ),
}  # fmt: skip


class SqueezeNet(nn.Module):
    """Fire modules: a 1x1 squeeze, then 1x1 and 3x3 expansions side by side.

    Returns {'features': [batch, 512], 'spatial': [batch, h', w', 512]}, and 'logits' [batch, classes] where `classes` is given:
    the mean of a rectified 1x1 convolution, as published (so not a function of the features). No batch norm.
    """

    version: str = "1_0"
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        (width, kernel), layout = LAYOUTS[self.version]

        def conv(name: str, x: Array, width: int, kernel: int, stride: int = 1, padding: int = 0) -> Array:
            layer = nn.Conv(width, (kernel, kernel), stride, padding=padding, dtype=self.dtype, name=name)
            return nn.relu(layer(x))

        x = conv("stem", x, width, kernel, 2)
        for i, fire in enumerate(layout):
            if fire is None:
                x = _max_pool_ceil(x)
                continue
            squeezed = conv(f"fire{i}_squeeze", x, fire[0], 1)
            x = jnp.concatenate(
                [
                    conv(f"fire{i}_expand1x1", squeezed, fire[1], 1),
                    conv(f"fire{i}_expand3x3", squeezed, fire[1], 3, padding=1),
                ],
                axis=-1,
            )
        spatial = x.astype(jnp.float32)
        outputs = {"features": spatial.mean(axis=(1, 2)), "spatial": spatial}
        if self.classes is not None:
            outputs["logits"] = nn.relu(nn.Conv(self.classes, (1, 1), name="classifier")(spatial)).mean(
                axis=(1, 2)
            )
        return outputs


def _max_pool_ceil(x: Array) -> Array:
    """3x3 max pool with stride 2 whose last window may hang over the edge (PyTorch's ceil_mode)."""
    pads = [(0, -(-(n - 3) // 2) * 2 + 3 - n) for n in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), (2, 2), padding=pads)

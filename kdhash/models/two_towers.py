"""A hasher for each of two modalities, into one code space."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.hasher import Hasher


class TwoTowers(nn.Module):
    """Features of pictures and of texts to logits of the same bits, by a `Hasher` each.

    `image_hidden`, `text_hidden`: width of a layer with ReLU between features and bits, 0 for none; these layers compute in
    `dtype`, all else in float32. Returns
    {'image_logits': [batch, bits], 'text_logits': [batch, bits]}, of what is given: either may be missing.
    """

    bits: int
    image_hidden: int = 0
    text_hidden: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch image_width"] | None = None,
        text: Float[Array, "batch text_width"] | None = None,
    ) -> dict[str, Array]:
        outputs = {}
        for name, given, hidden in (("image", image, self.image_hidden), ("text", text, self.text_hidden)):
            if given is not None:
                hasher = Hasher(self.bits, hidden, dtype=self.dtype, name=name)
                outputs[f"{name}_logits"] = hasher(given)["logits"]
        return outputs

"""A hasher for each of two modalities, into one code space."""

import flax.linen as nn
from jaxtyping import Array, Float

from kdhash.models.hasher import Hasher


class TwoTowers(nn.Module):
    """Features of pictures and of texts to logits of the same bits, by a `Hasher` each.

    `image_hidden`, `text_hidden`: width of a layer with ReLU between features and bits, 0 for none. Returns
    {'image_logits': [batch, bits], 'text_logits': [batch, bits]}, of what is given: either may be missing.
    """

    bits: int
    image_hidden: int = 0
    text_hidden: int = 0

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch image_width"] | None = None,
        text: Float[Array, "batch text_width"] | None = None,
    ) -> dict[str, Array]:
        outputs = {}
        if image is not None:
            outputs["image_logits"] = Hasher(self.bits, self.image_hidden, name="image")(image)["logits"]
        if text is not None:
            outputs["text_logits"] = Hasher(self.bits, self.text_hidden, name="text")(text)["logits"]
        return outputs

"""CLIP's text tower: Radford et al. 2021, arXiv 2103.00020."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from kdhash.models.transformer import Block


class ClipText(nn.Module):
    """Causal pre-norm blocks over token ids; what stands at the end mark is the text, mapped to the width of the pictures.

    length: the longest text, in tokens. end: the id of the end mark, whose first place is read; None: the greatest id is it.
    projection: the width of the last linear map (0: none). Returns {'features': [batch, projection or width],
    'tokens': [batch, tokens, width]}, both float32, and 'logits' where `classes` is given. `train` and `axis_name` change
    nothing: there is neither batch norm nor dropout.
    """

    vocabulary: int = 49408
    length: int = 77
    width: int = 512
    depth: int = 12
    heads: int = 8
    hidden: int = 2048
    projection: int = 512
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    end: int | None = 49407
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int32[Array, "batch tokens"], *, train: bool = False) -> dict[str, Array]:
        if ids.shape[1] > self.length:
            raise ValueError(f"texts of {ids.shape[1]} tokens; this network reads at most {self.length}")
        x = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, name="tokens")(ids)
        positions = self.param("positions", nn.initializers.normal(0.01), (self.length, self.width))
        x = x + positions[: ids.shape[1]].astype(self.dtype)
        for i in range(self.depth):
            x = Block(
                self.heads,
                self.hidden,
                self.activation,
                self.epsilon,
                causal=True,
                dtype=self.dtype,
                name=f"block{i}",
            )(x)
        x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
        at_end = ids if self.end is None else ids == self.end
        text = x[jnp.arange(x.shape[0]), jnp.argmax(at_end, axis=1)]
        if self.projection:
            text = nn.Dense(self.projection, use_bias=False, dtype=self.dtype, name="projection")(text)
        features: Float[Array, "batch out"] = text.astype(jnp.float32)
        outputs = {"features": features, "tokens": x.astype(jnp.float32)}
        if self.classes is not None:
            outputs["logits"] = nn.Dense(self.classes, name="classifier")(features)
        return outputs

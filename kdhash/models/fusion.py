"""Several teachers' features into one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from kdhash.models.hash_head import HashHead


class Fusion(nn.Module):
    """Projects each teacher's features to a common width and fuses them: by 'mean', 'concat' or 'attention'.

    Returns {'fused': [batch, width], 'attention': [batch, teachers]} (weights sum to 1; uniform for 'mean' and 'concat').
    Source: METHODS section 1 (our reconstruction of DMTH).
    """

    kind: str
    width: int
    heads: int = 1
    temperature: float = 1.0
    teacher_dropout: float = 0.0
    noise: float = 0.0

    @nn.compact
    def __call__(
        self,
        features: dict[str, Float[Array, "batch _"]],
        keys: Key[Array, " batch"] | None = None,
    ) -> dict[str, Array]:
        """`keys`, one an example, turn on the noise and dropout of training."""
        names = list(features)
        tokens = jnp.stack(
            [
                nn.LayerNorm(name=f"norm_{name}")(
                    nn.Dense(self.width, name=f"project_{name}")(_noisy(features[name], self.noise, keys, i))
                )
                for i, name in enumerate(names)
            ],
            axis=1,
        )
        uniform = jnp.full(tokens.shape[:2], 1 / len(names))
        if self.kind == "concat":
            fused = nn.Dense(self.width, name="mix")(tokens.reshape(len(tokens), -1))
            return {"fused": fused, "attention": uniform}
        if self.kind == "mean":
            return {"fused": tokens.mean(axis=1), "attention": uniform}
        scores = nn.Dense(self.heads, use_bias=False, name="score")(
            nn.tanh(nn.Dense(self.width, name="query")(tokens))
        )
        if keys is not None and self.teacher_dropout:
            keep = jax.vmap(
                lambda key: jax.random.bernoulli(
                    jax.random.fold_in(key, 99), 1 - self.teacher_dropout, scores.shape[1:2]
                )
            )(keys)
            scores = jnp.where(keep[..., None] | ~keep.any(axis=1)[:, None, None], scores, -1e9)
        weights = nn.softmax(scores / self.temperature, axis=1)
        split = tokens.reshape(*tokens.shape[:2], self.heads, -1)
        fused = (weights[..., None] * split).sum(axis=1).reshape(len(tokens), -1)
        return {"fused": fused, "attention": weights.mean(axis=-1)}


class FusionTeacher(nn.Module):
    """Fused features and their hash head: {'codes', 'logits', 'fused', 'attention'}; `fusion` holds Fusion's fields."""

    fusion: dict[str, Any]
    bits: int
    classes: int

    @nn.compact
    def __call__(
        self, features: dict[str, Float[Array, "batch _"]], keys: Key[Array, " batch"] | None = None
    ) -> dict[str, Array]:
        outputs = Fusion(**self.fusion, name="fusion")(features, keys)
        return outputs | HashHead(self.bits, self.classes, name="head")(outputs["fused"])


def _noisy(x: Array, scale: float, keys: Array | None, salt: int) -> Array:
    """Gaussian noise, in units of each feature's spread over the batch being 1 after the layer norm's input scale."""
    if keys is None or not scale:
        return x
    draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, salt), x.shape[1:]))
    return x + scale * draw(keys)

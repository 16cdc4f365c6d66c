"""Several teachers' features into one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from kdhash.models.hash_head import HashHead


class Fusion(nn.Module):
    """Projects each token, a teacher's features of one view, to a common width and fuses them: 'mean', 'concat', 'attention' or
    'global'.

    Attention weighs tokens per image and per head: e_t = V tanh(U h_t), a = softmax_t(e / temperature), and head k fuses
    the k-th part of the width, z_k = sum_t a_tk h_tk. 'global' learns e itself, one number a token and head: the same weights
    for all pictures, which is what attention has to be better than.

    Returns {'fused': [batch, width], 'attention': [batch, tokens]} (weights sum to 1; uniform for 'mean' and 'concat').
    Source: our reconstruction of DMTH.
    """

    kind: str
    width: int
    heads: int = 1
    temperature: float = 1.0
    teacher_dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        features: dict[str, Float[Array, "batch _"]],
        keys: Key[Array, " batch"] | None = None,
    ) -> dict[str, Array]:
        """`keys`, one an example, turn on teacher dropout."""
        names = list(features)
        tokens = jnp.stack([self._token(name, features[name]) for name in names], axis=1)
        uniform = jnp.full(tokens.shape[:2], 1 / len(names))
        if self.kind == "concat":
            fused = nn.Dense(self.width, name="mix")(tokens.reshape(len(tokens), -1))
            return {"fused": fused, "attention": uniform}
        if self.kind == "mean":
            return {"fused": tokens.mean(axis=1), "attention": uniform}
        if self.kind == "global":
            learned = self.param("score", nn.initializers.zeros, (len(names), self.heads))
            scores = jnp.broadcast_to(learned, (len(tokens), *learned.shape))
        else:
            scores = nn.Dense(self.heads, use_bias=False, name="score")(
                nn.tanh(nn.Dense(self.width, name="query")(tokens))
            )
        if keys is not None and self.teacher_dropout:
            scores = jax.vmap(self._drop_teachers)(keys, scores)
        weights = nn.softmax(scores / self.temperature, axis=1)
        split = tokens.reshape(*tokens.shape[:2], self.heads, -1)
        fused = (weights[..., None] * split).sum(axis=1).reshape(len(tokens), -1)
        return {"fused": fused, "attention": weights.mean(axis=-1)}

    def _token(self, name: str, features: Float[Array, "batch _"]) -> Float[Array, "batch width"]:
        """h_t = LayerNorm(W_t f_t)."""
        return nn.LayerNorm(name=f"norm_{name}")(nn.Dense(self.width, name=f"project_{name}")(features))

    def _drop_teachers(
        self, key: Key[Array, ""], scores: Float[Array, "teachers heads"]
    ) -> Float[Array, "teachers heads"]:
        """Each teacher is left out with probability `teacher_dropout`, but never all of them."""
        keep = jax.random.bernoulli(key, 1 - self.teacher_dropout, scores.shape[:1])
        return jnp.where((keep | ~keep.any())[:, None], scores, -1e9)


class FusionTeacher(nn.Module):
    """Fused features and their hash head: {'codes', 'logits', 'fused', 'attention'}; `fusion` holds Fusion's fields."""

    fusion: dict[str, Any]
    bits: int
    classes: int
    give_weights: bool = False

    @nn.compact
    def __call__(
        self, features: dict[str, Float[Array, "batch _"]], keys: Key[Array, " batch"] | None = None
    ) -> dict[str, Array]:
        outputs = Fusion(**self.fusion, name="fusion")(features, keys)
        head = HashHead(self.bits, self.classes, self.give_weights, name="head")
        return outputs | head(outputs["fused"])

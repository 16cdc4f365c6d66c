"""Vision transformers: ViT and DeiT, DINOv2 (with registers too), the image towers of CLIP and SigLIP.

Dosovitskiy et al. 2021, arXiv 2010.11929; Touvron et al. 2021, arXiv 2012.12877; Oquab et al. 2023, arXiv 2304.07193;
Darcet et al. 2024, arXiv 2309.16588; Radford et al. 2021, arXiv 2103.00020; Zhai et al. 2023, arXiv 2303.15343.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdhash.models.blocks import run_block
from kdhash.models.transformer import Block, Mlp, Patches, resize_positions


class VisionTransformer(nn.Module):
    """Pre-norm blocks over the class token (and registers) and the patches; the last norm is over all tokens.

    image_size: of the square pictures that the learned positions are for; other pictures get them interpolated.
    distilled: there is a second token, DeiT's.
    pool: what 'features' are: the class 'token'; 'token_mean', the token beside the mean of the patches; 'two_tokens', the
    mean of both tokens (each then has its classifier, and logits are the mean of theirs); 'attention', what a learned query
    sees of the patches (there is no class token then).
    token_position: whether the table has a position for the class token too. pre_norm: a norm before the blocks.
    projection: the width of a last linear map of the features (0: none). antialias, position_offset: see
    `transformer.resize_positions`.

    'spatial' is the grid of patch tokens. `train` and `axis_name` change nothing: there is neither batch norm nor dropout.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    patch: int = 16
    image_size: int = 224
    registers: int = 0
    distilled: bool = False
    pool: str = "token"
    token_position: bool = True
    patch_bias: bool = True
    pre_norm: bool = False
    layer_scale: bool = False
    projection: int = 0
    activation: str = "gelu"
    epsilon: float = 1e-6
    antialias: bool = False
    position_offset: float = 0.0
    classes: int | None = None
    axis_name: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        patches = Patches(self.width, self.patch, self.patch_bias, self.dtype, name="patches")(x)
        batch, rows, columns, width = patches.shape
        x = self._with_tokens(patches.reshape(batch, rows * columns, width), (rows, columns))
        if self.pre_norm:
            x = self._norm("pre_norm")(x)
        for i in range(self.depth):
            block = Block(
                self.heads,
                self.hidden,
                self.activation,
                self.epsilon,
                self.layer_scale,
                dtype=self.dtype,
                name=f"block{i}",
            )
            x = run_block(block, x, remat=self.remat)
        x = self._norm("norm")(x)
        spatial = x[:, x.shape[1] - rows * columns :].reshape(batch, rows, columns, width)
        features = self._pooled(x, spatial).astype(jnp.float32)
        outputs = {"features": features, "spatial": spatial.astype(jnp.float32)}
        if self.classes is not None and self.pool == "two_tokens":
            outputs["logits"] = TwoClassifiers(self.classes, name="classifier")(x[:, :2].astype(jnp.float32))
        elif self.classes is not None:
            outputs["logits"] = nn.Dense(self.classes, name="classifier")(features)
        return outputs

    def _with_tokens(self, x: Array, grid: tuple[int, int]) -> Array:
        """The patches with their positions, behind the tokens with theirs; registers, which have none, in between."""
        side = self.image_size // self.patch
        named = ["class_token", "distillation_token"][: 0 if self.pool == "attention" else 1 + self.distilled]
        positioned = len(named) if self.token_position else 0
        draw = nn.initializers.normal(0.02)
        table = self.param("positions", draw, (positioned + side * side, self.width))
        positions = resize_positions(
            table[positioned:], (side, side), grid, antialias=self.antialias, offset=self.position_offset
        )
        parts = [x + positions.astype(self.dtype)]
        if self.registers:
            parts.insert(0, self._everywhere(self.param("registers", draw, (self.registers, self.width)), x))
        if named:
            tokens = jnp.concatenate([self.param(name, draw, (1, self.width)) for name in named])
            if self.token_position:
                tokens = tokens + table[:positioned]
            parts.insert(0, self._everywhere(tokens, x))
        return jnp.concatenate(parts, axis=1)

    def _everywhere(self, tokens: Array, x: Array) -> Array:
        return jnp.broadcast_to(tokens.astype(self.dtype), (x.shape[0], *tokens.shape))

    def _pooled(self, x: Array, spatial: Array) -> Array:
        if self.pool == "attention":
            x = AttentionPool(
                self.heads, self.hidden, self.activation, self.epsilon, self.dtype, name="pool"
            )(x)
        elif self.pool == "token_mean":
            x = jnp.concatenate([x[:, 0], spatial.mean(axis=(1, 2))], axis=-1)
        else:
            x = x[:, :2].mean(axis=1) if self.pool == "two_tokens" else x[:, 0]
        if self.projection:
            x = nn.Dense(self.projection, use_bias=False, dtype=self.dtype, name="projection")(x)
        return x

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.epsilon, dtype=self.dtype, name=name)


class TwoClassifiers(nn.Module):
    """DeiT's: one for the class token, one for the distillation token; the mean of their logits."""

    classes: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "batch 2 width"]) -> Float[Array, "batch classes"]:
        ours = nn.Dense(self.classes, name="token")(tokens[:, 0])
        return (ours + nn.Dense(self.classes, name="distillation")(tokens[:, 1])) / 2


class AttentionPool(nn.Module):
    """SigLIP's head: a learned query attends to all patches; then an MLP, added to what it saw."""

    heads: int
    hidden: int
    activation: str
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch width"]:
        batch, _, width = x.shape
        probe = self.param("probe", nn.initializers.normal(0.02), (1, width))
        tokens = jnp.concatenate([jnp.broadcast_to(probe.astype(x.dtype), (batch, 1, width)), x], axis=1)
        # One matrix holds the maps of query, key and value; the query is the probe's, keys and values the patches'.
        qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(tokens)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, -1, 3, self.heads, width // self.heads), 2, 0)
        seen = jax.nn.dot_product_attention(q[:, :1], k[:, 1:], v[:, 1:])
        seen = nn.Dense(width, dtype=self.dtype, name="out")(seen.reshape(batch, width))
        normed = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(seen)
        return seen + Mlp(self.hidden, self.activation, self.dtype, name="mlp")(normed)

"""What transformers share: the pre-norm block, attention over tokens, patches and their positions."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def quick_gelu(x: Array) -> Array:
    """CLIP's approximation of GELU, x sigmoid(1.702 x); up to .02 from the exact one."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
}


class Mlp(nn.Module):
    """Two dense layers, 'fc1' and 'fc2'. 'swiglu': the first gives a gate and what it lets through, side by side."""

    hidden: int
    activation: str = "gelu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        width = x.shape[-1]
        if self.activation == "swiglu":
            gate, x = jnp.split(nn.Dense(2 * self.hidden, dtype=self.dtype, name="fc1")(x), 2, axis=-1)
            x = nn.silu(gate) * x
        else:
            x = ACTIVATIONS[self.activation](nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        return nn.Dense(width, dtype=self.dtype, name="fc2")(x)


class SelfAttention(nn.Module):
    """Multi-head attention: 'qkv' gives queries, keys and values side by side, 'out' joins the heads."""

    heads: int
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"] | None = None
    ) -> Float[Array, "batch tokens width"]:
        batch, tokens, width = x.shape
        qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, width // self.heads), 2, 0)
        seen = None if mask is None else mask[:, None, None, :]
        x = jax.nn.dot_product_attention(q, k, v, mask=seen, is_causal=self.causal)
        return nn.Dense(width, dtype=self.dtype, name="out")(x.reshape(batch, tokens, width))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with `layer_scale`, a weight a channel on what is added."""

    heads: int
    hidden: int
    activation: str = "gelu"
    epsilon: float = 1e-6
    layer_scale: bool = False
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"] | None = None
    ) -> Float[Array, "batch tokens width"]:
        added = SelfAttention(self.heads, self.causal, self.dtype, name="attention")(
            self._norm("norm1")(x), mask
        )
        x = x + self._scaled("scale1", added)
        added = Mlp(self.hidden, self.activation, self.dtype, name="mlp")(self._norm("norm2")(x))
        return x + self._scaled("scale2", added)

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.epsilon, dtype=self.dtype, name=name)

    def _scaled(self, name: str, x: Array) -> Array:
        if not self.layer_scale:
            return x
        return x * self.param(name, nn.initializers.constant(1e-5), (x.shape[-1],)).astype(self.dtype)


class Patches(nn.Module):
    """Pictures cut into squares of `patch` pixels, each a token. Pixels at the right and the bottom that fill no square are
    left out, as PyTorch's networks do (SigLIP's 384 pixels in patches of 14)."""

    width: int
    patch: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 width"]:
        square = (self.patch, self.patch)
        return nn.Conv(
            self.width,
            square,
            square,
            padding="VALID",
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="projection",
        )(x)


def resize_positions(
    table: Float[Array, "old width"],
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    antialias: bool,
    offset: float = 0.0,
) -> Float[Array, "new width"]:
    """Learned positions of a grid of `old` patches for one of `new`: bicubic, as PyTorch's `interpolate` (not aligned at
    the corners). `antialias` widens the kernel when the new grid is coarser, as timm does and transformers does not. The
    table is stretched to new + `offset` patches a side, then cut, as Facebook's DINOv2 does."""
    if old == new:
        return table
    grid = table.reshape(*old, -1).astype(jnp.float32)
    # PyTorch's kernel has a = -.75 without antialias, -.5 with it.
    method = jax.image.ResizeMethod.CUBIC if antialias else jax.image.ResizeMethod.CUBIC_PYTORCH
    scale = jnp.array([(side + offset) / before for side, before in zip(new, old, strict=True)])
    resized = jax.image.scale_and_translate(
        grid, (*new, grid.shape[-1]), (0, 1), scale, jnp.zeros(2), method, antialias=antialias
    )
    return resized.reshape(new[0] * new[1], -1)

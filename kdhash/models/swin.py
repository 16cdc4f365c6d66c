"""Swin Transformer: Liu et al. 2021, arXiv 2103.14030."""

from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from kdhash.models.transformer import Mlp, Patches

EPSILON = 1e-5
APART = -100.0  # added to attention between places that only the shift brought together, as published


class Swin(nn.Module):
    """Attention in windows of `window` x `window` places, every second time shifted by half a window; between stages four
    places become one of twice the width.

    A map that no whole number of windows covers is filled up with zeros: torchvision and transformers do so before the
    shift, timm (`shift_first`) after it. A map no larger than a window is not shifted. 'spatial' is the last map, normed,
    'features' its mean. `train` and `axis_name` change nothing: there is neither batch norm nor dropout.
    """

    depths: tuple[int, ...] = (2, 2, 6, 2)
    width: int = 96
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    shift_first: bool = False
    classes: int | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w 3"], *, train: bool = False) -> dict[str, Array]:
        x = Patches(self.width, 4, dtype=self.dtype, name="patches")(x)
        x = self._norm("patches_norm")(x)
        for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            if i:
                x = self._norm(f"merge{i}_norm")(four_as_one(x))
                x = nn.Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, name=f"merge{i}")(x)
            for j in range(depth):
                name = f"stage{i}_block{j}"
                shift = self.window // 2 if j % 2 else 0
                attention = WindowAttention(
                    heads, self.window, shift, self.shift_first, self.dtype, name=f"{name}_attention"
                )
                x = x + attention(self._norm(f"{name}_norm1")(x))
                mlp = Mlp(4 * x.shape[-1], "gelu", self.dtype, name=f"{name}_mlp")
                x = x + mlp(self._norm(f"{name}_norm2")(x))
        spatial = self._norm("norm")(x).astype(jnp.float32)
        features = spatial.mean(axis=(1, 2))
        outputs = {"features": features, "spatial": spatial}
        if self.classes is not None:
            outputs["logits"] = nn.Dense(self.classes, name="classifier")(features)
        return outputs

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(EPSILON, dtype=self.dtype, name=name)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for every distance between two places."""

    heads: int
    window: int
    shift: int
    shift_first: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        batch, height, width, channels = x.shape
        window, tokens = self.window, self.window**2
        rows, columns = -(-height // window), -(-width // window)
        fill = ((0, 0), (0, rows * window - height), (0, columns * window - width), (0, 0))
        sides = (height, width) if self.shift_first else (rows * window, columns * window)
        shifts = tuple(0 if side <= window else self.shift for side in sides)

        if self.shift_first:
            x = jnp.pad(jnp.roll(x, (-shifts[0], -shifts[1]), (1, 2)), fill)
        else:
            x = jnp.roll(jnp.pad(x, fill), (-shifts[0], -shifts[1]), (1, 2))
        x = x.reshape(batch, rows, window, columns, window, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, tokens, channels)

        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(batch, rows * columns, tokens, 3, self.heads, channels // self.heads)
        q, k, v = jnp.moveaxis(qkv, 3, 0)
        table = self.param("biases", nn.initializers.normal(0.02), ((2 * window - 1) ** 2, self.heads))
        bias = jnp.moveaxis(table[distances(window)], -1, 0)  # heads, tokens, tokens
        scores = jnp.einsum("bnqhc,bnkhc->bnhqk", q * q.shape[-1] ** -0.5, k).astype(jnp.float32) + bias
        if any(shifts):
            scores += jnp.asarray(strangers(rows, columns, window, shifts))[:, None]
        seen = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        x = jnp.einsum("bnhqk,bnkhc->bnqhc", seen, v).reshape(x.shape)
        x = nn.Dense(channels, dtype=self.dtype, name="out")(x)

        x = x.reshape(batch, rows, columns, window, window, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows * window, columns * window, channels)
        if self.shift_first:
            return jnp.roll(x[:, :height, :width], shifts, (1, 2))
        return jnp.roll(x, shifts, (1, 2))[:, :height, :width]


def four_as_one(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 4*c"]:
    """Squares of four places side by side, down before across; odd sides are filled up with zeros."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    return jnp.concatenate([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], axis=-1)


@lru_cache
def distances(window: int) -> np.ndarray:
    """[tokens, tokens] row of the bias table for each pair of places: which numbers their distance down and across."""
    places = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1).reshape(-1, 2)
    apart = places[:, None] - places[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


@lru_cache
def strangers(
    rows: int, columns: int, window: int, shifts: tuple[int, int]
) -> Float32[np.ndarray, "windows tokens tokens"]:
    """What is added to attention in each window of a shifted map: 0 between places that lie together, APART between those
    that the shift brought together from opposite sides."""

    def parts(side: int, shift: int) -> np.ndarray:
        place = np.arange(side)
        # Python's slices with a shift of 0: (0, -0) holds nothing, so all beyond the last window is one part.
        return (place >= side - window).astype(int) + (place >= (side - shift if shift else 0))

    areas = 3 * parts(rows * window, shifts[0])[:, None] + parts(columns * window, shifts[1])[None]
    areas = areas.reshape(rows, window, columns, window).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    return np.where(areas[:, :, None] == areas[:, None, :], 0, APART).astype(np.float32)

"""What makes real-valued codes good bits."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def quantization(codes: Float[Array, "batch bits"]) -> Float[Array, ""]:
    """mean((|u| - 1)^2): 0 where every code is -1 or +1. Source: METHODS section 1; the form of CSQ and HashNet's successors."""
    return jnp.mean((jnp.abs(codes) - 1) ** 2)


def balance(codes: Float[Array, "batch bits"]) -> Float[Array, ""]:
    """mean over bits of (mean over the batch of u)^2: 0 where every bit is +1 for half of the items.

    Over the global batch. Source: METHODS section 1.
    """
    return jnp.mean(jnp.mean(codes, axis=0) ** 2)

"""What makes real-valued codes good bits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def straight_through_sign(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """-1 or +1, sign(0) = +1; its gradient is that of the identity.

    Source: Bengio, Leonard and Courville 2013 (arXiv 1308.3432).
    """
    signs = jnp.where(x >= 0, jnp.ones_like(x), -jnp.ones_like(x))
    # no `x + stop_gradient(signs - x)`: its rounding would leave codes that are not quite 1
    return jax.lax.stop_gradient(signs) + (x - jax.lax.stop_gradient(x))


def quantization(codes: Float[Array, "batch bits"], *, power: int = 2) -> Float[Array, ""]:
    """mean(||u| - 1|^power): 0 where every code is -1 or +1.

    Power 2: our reconstruction of DMTH, CSQ, DPSH; power 1: DSH; power 3: GreedyHash.
    """
    return jnp.mean(jnp.abs(jnp.abs(codes) - 1) ** power)


def balance(codes: Float[Array, "batch bits"]) -> Float[Array, ""]:
    """mean over bits of (mean over the batch of u)^2: 0 where every bit is +1 for half of the items.

    Over the global batch. Source: our reconstruction of DMTH.
    """
    return jnp.mean(jnp.mean(codes, axis=0) ** 2)

"""The gradient of a whole batch's loss, with no more than a part of the batch's activations in memory.

A loss over pairs is no sum over examples, so that parts of a batch cannot each have their own. Gao et al., Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup (GradCache), arXiv 2101.06983: every part goes forward, and only
its outputs are kept; the loss of all outputs gives a gradient for each; every part goes forward again, and back from there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Forward = Callable[[Any, Any], tuple[Any, tuple[Any, Any]]]


def cached_gradients(
    forward: Forward,
    loss: Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]],
    params: Any,
    examples: Any,
    split: Callable[[Any], Any],
    join: Callable[[Any], Any],
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """(gradient of `loss` by `params`, batch statistics, terms); twice the forward pass for a part of the memory.

    forward(params, examples) -> (outputs, (statistics, batch)), each example's outputs its own.
    loss(outputs, batch) -> (scalar, terms), of all examples together.
    split: arrays [batch, ...] -> [parts, batch / parts, ...]; join: back again.

    Batch norm sees a part at a time: its statistics are the means of those of the parts.
    """
    parts = split(examples)
    _, (outputs, (statistics, batch)) = jax.lax.scan(
        lambda _, part: (None, forward(params, part)), None, parts
    )
    batch = join(batch)
    slopes, terms = jax.grad(lambda outputs: loss(outputs, batch), has_aux=True)(join(outputs))

    def back(total: Any, given: tuple[Any, Any]) -> tuple[Any, None]:
        part, slope = given
        _, pull = jax.vjp(lambda params: forward(params, part)[0], params)
        return jax.tree.map(jnp.add, total, pull(slope)[0]), None

    gradient, _ = jax.lax.scan(back, jax.tree.map(jnp.zeros_like, params), (parts, split(slopes)))
    return gradient, jax.tree.map(lambda each: each.mean(axis=0), statistics), terms

"""The one interface between methods and training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Batch = dict[str, Any]  # name -> array with the batch as its first axis, or a dict of such arrays
Variables = dict[str, Any]  # {'params': ..., 'batch_stats': ...}


class Method(NamedTuple):
    """What training needs to know of a method: four pure functions.

    init(rng, batch) -> variables
    forward(variables, batch, keys, *, train) -> (outputs, new batch statistics). Per example: it is mapped over devices.
        `keys` holds one random key an example, so that no number depends on how the batch is divided. Variables, outputs
        and statistics are float32, whatever a network computes in between.
    loss(outputs, batch) -> (scalar, {term: scalar}). Over the whole batch: pairs, negatives, balance.
    encode(variables, inputs) -> real-valued codes [batch, bits]; their signs are the bits. In float32, whatever `forward`
        computes in: as an export does, so that the codes that are scored are those that are searched by.
    """

    init: Callable[[jax.Array, Batch], Variables]
    forward: Callable[..., tuple[dict[str, jax.Array], Any]]
    loss: Callable[[dict[str, jax.Array], Batch], tuple[jax.Array, dict[str, jax.Array]]]
    encode: Callable[[Variables, Any], jax.Array]

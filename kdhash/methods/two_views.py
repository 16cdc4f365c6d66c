"""What unsupervised hashers share: two views of each item through one network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdhash.methods.interface import Batch, Method
from kdhash.models.hasher import Hasher

Loss = Callable[[dict[str, jax.Array], Batch], tuple[jax.Array, dict[str, jax.Array]]]


def two_views(model: Hasher, loss: Loss) -> Method:
    """The batch: 'view_i' and 'view_j', pictures or features. Outputs of `model` come with the view's ending: 'logits_i', ...

    `encode` gives logits, whose signs are the bits; it computes in float32, training in the model's dtype.
    """
    searcher = model.clone(dtype=jnp.float32)

    def init(rng, batch):
        return model.init(rng, batch["view_i"])

    def forward(variables, batch, keys, *, train):
        both = jnp.concatenate([batch["view_i"], batch["view_j"]])  # batch norm sees both together
        outputs, new = model.apply(variables, both, train=train, mutable=["batch_stats"])
        halves = {name: jnp.split(value, 2) for name, value in outputs.items()}
        named = {f"{name}_{view}": half[i] for name, half in halves.items() for i, view in enumerate("ij")}
        return named, new.get("batch_stats", {})

    def encode(variables, inputs):
        return searcher.apply(variables, inputs)["logits"]

    return Method(init, forward, loss, encode)

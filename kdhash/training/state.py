"""The state of a training run and its optimiser."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from kdhash.methods.interface import Batch, Method, Variables


@struct.dataclass
class TrainState:
    """All that a run needs to go on: steps done, parameters, batch statistics, optimiser state."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> Variables:
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    method: Method, optimizer: optax.GradientTransformation, batch: Batch, seed: int
) -> TrainState:
    """A fresh state: parameters from `seed`, shapes from one example batch."""
    variables = method.init(jax.random.key(seed), batch)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )


def make_optimizer(
    name: str, *, learning_rate: float, weight_decay: float, warmup_steps: int, steps: int, clip_norm: float
) -> optax.GradientTransformation:
    """'sgd' (Nesterov momentum .9) or 'adamw', gradients clipped by global norm (0: never), linear warm-up, then cosine to 0.

    Weight decay acts on matrices and kernels only, not on norms and biases (arrays of less than two axes).
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, max(steps, warmup_steps + 1)
    )

    def kernels(params):
        return jax.tree.map(lambda p: p.ndim >= 2, params)

    rules = {
        "adamw": [optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, kernels)],
        "sgd": [optax.add_decayed_weights(weight_decay, kernels), optax.trace(0.9, nesterov=True)],
    }
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(*clip, *rules[name], optax.scale_by_learning_rate(schedule))

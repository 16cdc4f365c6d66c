"""A plain classifier: how the `pretrain` stage makes teachers out of nothing but labelled pictures."""

from typing import Any

import jax.numpy as jnp

from kdhash.losses import cross_entropy
from kdhash.methods.interface import Method
from kdhash.models.backbones import make_backbone


def classifier(
    *,
    arch: str,
    sizes: dict[str, Any],
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    axis_name: str | None = None,
    dtype: str = "float32",
    remat: bool = False,
) -> Method:
    """Cross entropy on a backbone's logits. The batch: 'image' (float pictures in [0, 1]) and 'label'.

    `encode` gives the logits: whoever scores it takes their argmax for the class. Training computes in `dtype`; see `Method`
    for what stays float32. `remat`: see `models.backbones.make_backbone`.
    """
    model = make_backbone(
        arch, classes=classes, axis_name=axis_name, dtype=jnp.dtype(dtype), remat=remat, **sizes
    )
    searcher = model.clone(dtype=jnp.float32)

    def normalized(pictures):
        return (pictures - jnp.asarray(mean)) / jnp.asarray(std)

    def init(rng, batch):
        return model.init(rng, normalized(batch["image"]))

    def forward(variables, batch, keys, *, train):
        outputs, new = model.apply(
            variables, normalized(batch["image"]), train=train, mutable=["batch_stats"]
        )
        return {"logits": outputs["logits"]}, new.get("batch_stats", {})

    def loss(outputs, batch):
        value = cross_entropy(outputs["logits"], batch["label"])
        return value, {"cross_entropy": value}

    def encode(variables, pictures):
        return searcher.apply(variables, normalized(pictures))["logits"]

    return Method(init, forward, loss, encode)

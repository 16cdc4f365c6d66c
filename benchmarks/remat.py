"""What config.remat saves: memory of a training step's backward pass with blocks kept and computed anew, in one run.

    python benchmarks/remat.py
    python benchmarks/remat.py --networks vit --dtype bfloat16 --json remat_gpu.json

`kept_mb`: what JAX keeps of the forward pass for the backward pass, the same on every device. `temporary_mb`: what XLA lays out
for the compiled step beside its inputs and outputs. `flops`: of the compiled step. Nothing is run.
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp

from kdhash.models.backbones import make_backbone

# sizes, side of the pictures, batch
NETWORKS: dict[str, tuple[dict[str, Any], int, int]] = {
    "resnet_cifar": ({"depth": 20}, 32, 128),
    "resnet": ({"depths": (2, 2, 2, 2), "block": "basic", "stem": "cifar"}, 32, 128),
    "mobilenet_v2": ({}, 96, 64),
    "vit": (
        {"width": 192, "heads": 3, "depth": 12, "hidden": 768, "patch": 4, "image_size": 32},
        32,
        64,
    ),
}


def measure(arch: str, remat: bool, dtype: str) -> dict[str, Any]:
    sizes, side, batch = NETWORKS[arch]
    net = make_backbone(arch, classes=10, remat=remat, dtype=jnp.dtype(dtype), **sizes)
    x = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    rest = dict(jax.eval_shape(net.init, jax.random.key(0), x))
    params = rest.pop("params")

    def loss(params, rest, x):
        outputs, new = net.apply({**rest, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.square(outputs["logits"] - 1).mean(), new

    backward = jax.eval_shape(lambda *given: jax.vjp(loss, *given, has_aux=True)[1], params, rest, x)
    step = jax.jit(jax.grad(loss, has_aux=True)).lower(params, rest, x).compile()
    memory, cost = step.memory_analysis(), step.cost_analysis() or {}
    return {
        "network": arch,
        "batch": batch,
        "side": side,
        "dtype": dtype,
        "remat": remat,
        "kept_mb": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward)) / 1e6,
        "temporary_mb": memory.temp_size_in_bytes / 1e6 if memory else None,
        "flops": cost.get("flops"),
        "device": jax.devices()[0].device_kind,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--json", help="also write the lines to this file")
    options = parser.parse_args()
    lines = []
    for arch in options.networks:
        for remat in (False, True):
            lines.append(measure(arch, remat, options.dtype))
            print(json.dumps(lines[-1]), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(lines, file, indent=1)


if __name__ == "__main__":
    main()

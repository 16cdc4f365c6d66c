"""A small training run in a process of its own, for the test that kills it. Arguments: folder, mapping."""

import sys

import jax

jax.config.update("jax_num_cpu_devices", 2)

import numpy as np

from kdhash.data import batches, device_prefetch
from kdhash.methods.classifier import classifier
from kdhash.teachers.registry import save_variables
from kdhash.training.loop import Schedule, train
from kdhash.training.mapping import AXIS, data_mesh

SCHEDULE = Schedule(
    steps=200,
    batch_size=16,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=1e-4,
    warmup_steps=2,
    clip_norm=1.0,
    checkpoint_every=21,
    log_every=5,
    keep="best",
)


def main(folder: str, mapping: str) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.random((100, 8, 8, 3), dtype=np.float32)
    labels = rng.integers(0, 4, 100).astype(np.int32)
    method = classifier(
        arch="convnet",
        sizes={"widths": (8, 8)},
        classes=4,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        axis_name=AXIS if mapping == "pmap" else None,
    )

    def noise(keys, batch):
        drawn = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 3)))(keys)
        return batch | {"image": batch["image"] + 0.1 * drawn}

    variables = train(
        method,
        batches(
            lambda rows: {"image": pictures[rows], "label": labels[rows]},
            np.arange(100),
            batch_size=16,
            seed=3,
        ),
        SCHEDULE,
        folder,
        label="killed",
        seed=0,
        mesh=data_mesh(),
        mapping=mapping,
        prepare=noise,
        validate=lambda variables: -float(np.abs(method.encode(variables, pictures[:40])).mean()),
        prefetch=device_prefetch,
    )
    save_variables(f"{folder}/final.safetensors", variables)


if __name__ == "__main__":
    main(*sys.argv[1:])

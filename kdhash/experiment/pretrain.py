"""Stage `pretrain`: small teachers from labelled pictures, for whoever has no pretrained networks."""

import time

import numpy as np

from kdhash.data import batches, device_prefetch
from kdhash.experiment.context import Run, schedule_of, sizes_of
from kdhash.experiment.student import picture_batches, picture_preparation
from kdhash.experiment.workdir import begin, fingerprint, finish, finished
from kdhash.methods.classifier import classifier
from kdhash.teachers.registry import save_variables
from kdhash.training.loop import train
from kdhash.training.mapping import AXIS, make_encode


def pretrain_teachers(run: Run) -> None:
    """Trains every teacher of the config on the protocol's training pictures; `weights` then lie in workdir/pretrain."""
    config = run.config
    run.seconds["pretrain"] = 0.0
    for name, spec in config.teachers.items():
        folder = run.workdir / "pretrain" / name
        inputs = fingerprint(run.identity(), config.pretrain, spec)
        notes = finished(folder, inputs)
        if notes is None:
            notes = finish(folder, inputs, _pretrain(run, name, begin(folder, inputs)))
        run.say(f"pretrain {name}: validation accuracy {notes['validation_accuracy']:.3f}")
        run.seconds["pretrain"] += notes["seconds"]


def _pretrain(run: Run, name: str, folder) -> dict[str, float]:
    config, spec = run.config, run.config.teachers[name]
    start = time.perf_counter()
    method = classifier(
        arch=spec.arch,
        sizes=sizes_of(spec.sizes),
        classes=run.classes,
        mean=tuple(spec.mean),
        std=tuple(spec.std),
        axis_name=AXIS if config.mapping == "pmap" else None,
    )
    encode = make_encode(method, run.mesh, config.features.batch_size)
    labels = run.dataset.labels[run.protocol.validation]

    def accuracy(variables) -> float:
        logits = encode(variables, lambda rows: _pictures(run, rows), run.protocol.validation)
        return float(np.mean(logits.argmax(axis=1) == labels))

    variables = train(
        method,
        batches(
            picture_batches(run.dataset),
            run.protocol.train,
            batch_size=config.pretrain.schedule.batch_size,
            seed=config.seed,
        ),
        schedule_of(config.pretrain.schedule, len(run.protocol.train)),
        folder,
        label=f"pretrain {name}",
        seed=config.seed,
        mesh=run.mesh,
        mapping=config.mapping,
        prepare=picture_preparation(config.pretrain.augment),
        validate=accuracy,
        prefetch=device_prefetch,
    )
    save_variables(folder / "model.safetensors", variables)
    return {"seconds": time.perf_counter() - start, "validation_accuracy": accuracy(variables)}


def _pictures(run: Run, rows: np.ndarray) -> np.ndarray:
    return run.dataset.images[rows].astype(np.float32) / 255

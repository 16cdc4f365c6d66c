"""Stage `pretrain`: small teachers from labelled pictures, for whoever has no pretrained networks."""

import numpy as np

from kdhash.experiment.context import Run, sizes_of
from kdhash.experiment.student import picture_batches, picture_preparation
from kdhash.experiment.train_row import train_row
from kdhash.experiment.workdir import fingerprint
from kdhash.methods.classifier import classifier
from kdhash.training.mapping import AXIS, make_encode


def pretrain_teachers(run: Run) -> None:
    """Trains every teacher of the config on the protocol's training pictures; the weights then lie in workdir/pretrain."""
    config = run.config
    run.seconds["pretrain"] = 0.0
    for name, spec in config.teachers.items():
        method = classifier(
            arch=spec.arch,
            sizes=sizes_of(spec.sizes),
            classes=run.classes,
            mean=tuple(spec.mean),
            std=tuple(spec.std),
            axis_name=AXIS if config.mapping == "pmap" else None,
            dtype=run.dtype,
            remat=run.remat,
        )
        encode = make_encode(method, run.mesh, config.features.batch_size)

        def accuracy(variables, encode=encode) -> float:
            rows = run.protocol.validation
            right = encode(variables, run.pictures, rows).argmax(axis=1) == run.dataset.labels[rows]
            return run.by_first(lambda: float(np.mean(right)))

        trained = train_row(
            run,
            f"pretrain/{name}",
            fingerprint(run.identity(), config.pretrain, spec),
            method,
            picture_batches(run.dataset),
            config.pretrain.schedule,
            example=run.example_picture(),
            prepare=picture_preparation(config.pretrain.augment),
            validate=accuracy,
        )
        run.say(f"pretrain {name}: validation accuracy {trained.validation:.3f}")
        run.seconds["pretrain"] += trained.seconds

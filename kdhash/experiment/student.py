"""Stage `student`: a small network from scratch, alone and with a teacher's codes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdhash.config import ConfigError
from kdhash.data import ImageDataset, augment_images
from kdhash.experiment.context import Run, sizes_of
from kdhash.experiment.online_teacher import Answer, online_answer
from kdhash.experiment.teacher import Cached, Head, best_single, head_outputs, validation_map
from kdhash.experiment.train_row import Trained, train_row
from kdhash.experiment.workdir import fingerprint
from kdhash.methods.dmth import LossWeights, hash_student
from kdhash.methods.interface import Method
from kdhash.training.mapping import AXIS, make_encode


class Student(NamedTuple):
    """A trained student and the head that taught it, if any; its validation score is mAP@all among validation pictures."""

    name: str
    teacher: Head | None
    method: Method
    trained: Trained


def check_student(config: ConfigDict, dataset: ImageDataset) -> None:
    """Raises ConfigError where the student's network cannot be built for the pictures of `dataset`; computes nothing."""
    try:
        method = _method(config, classes=len(dataset.class_names), weights=LossWeights())
        batch = {"image": jax.ShapeDtypeStruct((1, *dataset.images.image_shape), jnp.float32)}
        jax.eval_shape(method.init, jax.random.key(0), batch)
    except Exception as error:  # whatever a network says of sizes that do not fit it
        height, width, _ = dataset.images.image_shape
        raise ConfigError(
            f"config.student.arch: no network {config.student.arch!r} with sizes {config.student.sizes.to_dict()} "
            f"for pictures of {height}x{width}: {str(error).splitlines()[0]}"
        ) from error


def train_students(run: Run, heads: dict[str, Head], features: dict[str, Cached]) -> dict[str, Student]:
    """The rows of config.student.rows: 'plain' (no transfer), 'best_single' and 'fused' (config.student.teacher)."""
    students = {}
    for row in run.config.student.rows:
        teacher = {
            "plain": lambda: None,
            "best_single": lambda: best_single(heads),
            "fused": lambda: heads[run.config.student.teacher],
        }[row]()
        students[row] = _train_student(run, row, teacher, features)
        run.say(f"student {row}: validation mAP@all {students[row].trained.validation:.4f}")
    run.seconds["student"] = sum(student.trained.seconds for student in students.values())
    return students


def picture_batches(
    dataset: ImageDataset, targets: Callable[[], dict[str, np.ndarray]] = dict
) -> Callable[[np.ndarray], dict[str, Any]]:
    """fetch(rows) -> {'image' uint8, 'label', and the rows of each target}; targets are asked for when first needed."""

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        extra = {name: values[rows] for name, values in targets().items()}
        return {"image": dataset.images[rows], "label": dataset.labels[rows], **extra}

    return fetch


def picture_preparation(
    augment: ConfigDict, answer: Answer | None = None
) -> Callable[[jax.Array, dict[str, Any]], dict[str, Any]]:
    """What happens to a batch inside the jitted step: augmentation, and the teacher's answer to the view that came out.

    Targets come as [batch, views, ...], of the original and of the mirrored picture; a mirrored picture gets the second. Or
    `answer` computes them from the augmented pictures.
    """
    options = augment.to_dict()

    def prepare(keys: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        pictures, flipped = augment_images(keys, batch["image"], **options)
        index = flipped.astype(jnp.int32)[:, None, None]
        targets = {
            name: jnp.take_along_axis(value, index, axis=1)[:, 0]
            for name, value in batch.items()
            if name.startswith("teacher_")
        }
        answers = answer(pictures) if answer else {}
        return batch | {"image": pictures} | targets | answers

    return prepare


def _train_student(run: Run, row: str, teacher: Head | None, features: dict[str, Cached]) -> Student:
    config = run.config.student
    weights = LossWeights(**config.weights.to_dict())
    if teacher is None:
        weights = weights._replace(code=0.0, relation=0.0, feature=0.0, logits=0.0)
    method = _method(
        run.config,
        classes=run.classes,
        weights=weights,
        teacher_width=run.config.teacher.width if teacher else 0,
        axis_name=AXIS if run.config.mapping == "pmap" else None,
        dtype=run.dtype,
        remat=run.remat,
    )
    settings = {key: value for key, value in config.items() if key not in ("rows", "teacher", "weights")}
    settings = {
        key: value.to_dict() if isinstance(value, ConfigDict) else value for key, value in settings.items()
    }
    inputs = fingerprint(
        run.identity(), settings, weights._asdict(), run.config.bits, teacher.inputs if teacher else None
    )
    encode = make_encode(method, run.mesh, run.config.features.batch_size)

    def validate(variables) -> float:
        return validation_map(lambda rows: encode(variables, run.pictures, rows), run)

    wanted = ["codes"] + ["fused"] * bool(weights.feature) + ["logits"] * bool(weights.logits)

    @functools.cache
    def targets() -> dict[str, np.ndarray]:
        return _targets(run, teacher, features, wanted) if teacher and not online else {}

    online = config.get("online", False)
    answer = online_answer(run, teacher, features, wanted) if teacher and online else None
    trained = train_row(
        run,
        f"student/{row}",
        inputs,
        method,
        picture_batches(run.dataset, targets),
        config.schedule,
        example=run.example_picture(),
        prepare=picture_preparation(config.augment, answer),
        validate=validate,
    )
    return Student(row, teacher, method, trained)


def _method(config: ConfigDict, **rest: Any) -> Method:
    student = config.student
    return hash_student(
        arch=student.arch,
        sizes=sizes_of(student.sizes),
        bits=config.bits,
        mean=tuple(student.mean),
        std=tuple(student.std),
        objective=student.objective,
        temperature=student.get("temperature", 4.0),
        **rest,
    )


def _targets(
    run: Run, teacher: Head, features: dict[str, Cached], wanted: list[str]
) -> dict[str, np.ndarray]:
    """What the teacher says of all rows, [rows, views, ...]: those of its outputs that are `wanted`.

    The views are the original and, where augmentation flips, the mirrored picture.
    """
    rows = np.arange(len(run.dataset))
    names = ("original", "flip") if run.config.student.augment.flip else ("original",)
    views = [head_outputs(run, teacher, features, name, rows) for name in names]
    return {f"teacher_{name}": np.stack([view[name] for view in views], axis=1) for name in wanted}

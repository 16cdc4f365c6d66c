"""Stages `features` and `teacher`: frozen networks once over all pictures, then hash heads on what they saw."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdhash.experiment.context import Run, chunked
from kdhash.experiment.train_row import WEIGHTS, Trained, train_row
from kdhash.experiment.workdir import fingerprint
from kdhash.methods.dmth import LossWeights, fusion_outputs, fusion_teacher
from kdhash.retrieval import mean_average_precision, pack_codes
from kdhash.teachers.extract import Features, extract_features
from kdhash.teachers.registry import Teacher, load_teacher
from kdhash.training.metric_log import Watch


class Head(NamedTuple):
    """A trained hash head on one or several teachers' features.

    Its validation score is the mAP@all of unseen views of validation pictures that search the training pictures.
    """

    name: str  # 'resnet20' (a single teacher), 'mean', 'concat', 'attention_plain', 'attention'
    members: tuple[str, ...]
    fusion: dict[str, Any]
    inputs: str  # fingerprint of all it depends on
    trained: Trained


def load_teachers(run: Run) -> dict[str, Teacher]:
    """The frozen networks of the config, from weights_dir or from the pretrain stage."""
    config = run.config
    teachers = {}
    for name, spec in config.teachers.items():
        folder: Path | str = config.weights_dir
        recipe = spec.to_dict()
        if "pretrain" in config:
            folder, recipe["weights"] = run.workdir / "pretrain" / name, WEIGHTS
        teachers[name] = load_teacher(
            name, recipe, weights_dir=folder, image_size=config.image_size, classes=run.classes
        )
    return teachers


def cache_features(run: Run, teachers: dict[str, Teacher]) -> dict[str, Features]:
    """Every teacher's features of every view in config.features.views, from the cache or computed into it."""
    config = run.config
    cache_dir = Path(config.cache_dir) if config.cache_dir else run.workdir / "features"
    spent = {}
    features = {}
    for name, teacher in teachers.items():
        watches: dict[str, Watch] = {}

        def progress(view: str, done: int, total: int, _seconds: float, name=name, watches=watches) -> None:
            if view not in watches:  # the first shard is done: the rate is that of the others
                watches[view] = Watch(f"features {name} {view}", total, "images", start=done)
            watches[view].update(done)
            if done == total:
                watches[view].close()

        start = time.perf_counter()
        features[name], computed = extract_features(
            teacher,
            run.dataset,
            tuple(config.features.views),
            cache_dir,
            mesh=run.mesh,
            batch_size=config.features.batch_size,
            progress=progress,
        )
        spent[name] = computed or time.perf_counter() - start
        state = "computed" if computed else "read from the cache"
        run.say(f"features {name}: {state} in {spent[name]:.1f} s")
    run.seconds["features"] = sum(spent.values())
    return features


def train_heads(run: Run, teachers: dict[str, Teacher], features: dict[str, Features]) -> dict[str, Head]:
    """One hash head for each single teacher and each form of fusion that config.teacher.rows names."""
    names = tuple(teachers)
    wanted: dict[str, tuple[str, ...]] = {}
    for row in run.config.teacher.rows:
        wanted |= {name: (name,) for name in names} if row == "single" else {row: names}
    heads = {}
    for label, members in wanted.items():
        heads[label] = _train_head(run, label, members, teachers, features)
        run.say(f"teacher {label}: validation mAP@all {heads[label].trained.validation:.4f}")
    run.seconds["teacher"] = sum(head.trained.seconds for head in heads.values())
    return heads


def best_single(heads: dict[str, Head]) -> Head | None:
    """The single teacher whose codes score best on validation pictures; None where config.teacher.rows lacks 'single'."""
    singles = [head for head in heads.values() if len(head.members) == 1]
    return max(singles, key=lambda head: head.trained.validation, default=None)


def head_outputs(
    run: Run, head: Head, features: dict[str, Features], view: str, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """'codes' [rows, bits], 'fused' [rows, width], 'logits' and 'attention' [rows, members] of cached features of a view."""
    apply = jax.jit(
        lambda variables, batch: fusion_outputs(
            variables, batch, bits=run.config.bits, classes=run.classes, fusion=head.fusion
        )
    )
    return chunked(
        lambda part: apply(head.trained.variables, _stack(features, head.members, (view,), part, 0)),
        rows,
        10000,
    )


def _train_head(
    run: Run,
    label: str,
    members: tuple[str, ...],
    teachers: dict[str, Teacher],
    features: dict[str, Features],
) -> Head:
    config = run.config.teacher
    options = config[label].to_dict() if label in config else {}
    trust_views = tuple(config.trust_views) if options.pop("trust", False) else ()
    # The mean of one teacher is that teacher.
    kind = "mean" if len(members) == 1 else label.split("_")[0]
    fusion = {"kind": kind, "width": config.width, **options}
    weights = LossWeights(quantization=config.quantization, balance=config.balance)
    settings = {name: config[name] for name in ("views", "validation_view", "quantization", "balance")}
    inputs = fingerprint(
        run.identity(),
        settings | {"trust_views": trust_views},
        config.schedule,
        fusion,
        run.config.bits,
        {name: teachers[name].identity for name in members},
    )
    method = fusion_teacher(bits=run.config.bits, classes=run.classes, fusion=fusion, weights=weights)
    views = tuple(config.views)
    labels = run.dataset.labels

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        batch = {"features": _stack(features, members, views, rows), "label": labels[rows]}
        if trust_views:
            batch["unseen"] = _stack(features, members, trust_views, rows)
        return batch

    def pick_view(keys: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        def one_of(stack: jax.Array) -> jax.Array:
            """[batch, views, width] -> [batch, width]; the same view for every teacher."""
            place = jax.vmap(lambda key: jax.random.randint(key, (), 0, stack.shape[1]))(keys)
            return jnp.take_along_axis(stack, place[:, None, None], axis=1)[:, 0]

        return batch | {
            name: jax.tree.map(one_of, batch[name]) for name in ("features", "unseen") if name in batch
        }

    encode = jax.jit(method.encode)

    def codes(variables, view: str, rows: np.ndarray) -> np.ndarray:
        return pack_codes(np.asarray(encode(variables, _stack(features, members, (view,), rows, 0))))

    def validate(variables) -> float:
        # The networks know their training pictures by heart, these held-out ones among them: only in a view that they
        # have not seen are these like new pictures.
        query, database = run.protocol.validation, run.protocol.train
        return mean_average_precision(
            codes(variables, config.validation_view, query),
            codes(variables, "original", database),
            labels[query],
            labels[database],
        )

    one = fetch(np.arange(1))
    trained = train_row(
        run,
        f"teacher/{label}",
        inputs,
        method,
        fetch,
        config.schedule,
        example=jax.eval_shape(pick_view, jax.random.split(jax.random.key(0), 1), one),
        prepare=pick_view,
        validate=validate,
    )
    return Head(label, members, fusion, inputs, trained)


def validation_map(encode_rows: Callable[[np.ndarray], np.ndarray], run: Run) -> float:
    """mAP@all (expected ties) among the held-out pictures: every fifth is a query, the others are the database."""
    rows = run.protocol.validation
    codes = pack_codes(np.asarray(encode_rows(rows)))
    labels = run.dataset.labels[rows]
    query = np.arange(len(rows)) % 5 == 0
    return mean_average_precision(codes[query], codes[~query], labels[query], labels[~query])


def _stack(
    features: dict[str, Features],
    members: tuple[str, ...],
    views: tuple[str, ...],
    rows: np.ndarray,
    only: int | None = None,
) -> dict[str, np.ndarray]:
    """{teacher: [rows, views, width]}, or of one view [rows, width] where `only` gives its place."""
    stacks = {
        name: np.stack([features[name][view]["features"][rows] for view in views], axis=1) for name in members
    }
    return stacks if only is None else {name: stack[:, only] for name, stack in stacks.items()}

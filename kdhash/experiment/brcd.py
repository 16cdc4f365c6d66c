"""The stages of a BRCD run: features of two frozen backbones, a teacher hasher, clusters of its codes, students."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdhash.data import subset
from kdhash.experiment.context import Run, chunked
from kdhash.experiment.teacher import cached_views
from kdhash.experiment.train_row import Trained, train_row
from kdhash.experiment.workdir import begin, fingerprint, finish, finished
from kdhash.losses import bit_masks
from kdhash.methods.brcd import BASELINES, brcd, distilled
from kdhash.methods.clusters import Clusters, choose_count, cluster_codes
from kdhash.methods.interface import Method
from kdhash.methods.unsupervised import BASES
from kdhash.models.hasher import Hasher
from kdhash.retrieval import mean_average_precision, pack_codes
from kdhash.teachers.registry import Teacher, load_teacher
from kdhash.training.mapping import data_mesh

VALIDATION_K = 1000


class Backbone(NamedTuple):
    """A frozen network and its standardised features: of all pictures, and of the training pictures in every view."""

    teacher: Teacher
    original: np.ndarray  # [rows, width]
    views: np.ndarray  # [training pictures, views, width]


class Hashed(NamedTuple):
    """A hasher trained on a backbone's features, and its codes of all pictures."""

    name: str
    seed: int
    method: Method
    trained: Trained
    packed: np.ndarray  # [rows, bytes]
    inputs: str  # fingerprint of all it depends on


class Taught(NamedTuple):
    """What students learn from. Codes are -1 or +1, of the training pictures."""

    teacher: Hashed
    codes: np.ndarray  # [training pictures, bits], unaugmented
    view_codes: np.ndarray  # [training pictures, views, bits]
    features: np.ndarray  # [training pictures, views, width]
    clusters: Clusters
    choice: dict[str, Any] | None  # what each count of clusters gave, where the elbow was asked for


def seeded(run: Run, seed: int) -> Run:
    """The same run with another training seed; on a CPU on one device, since hash heads are too small to be divided."""
    config = run.config.copy_and_resolve_references()
    config.seed = seed
    device = run.mesh.devices.flat[0]
    mesh = data_mesh([device]) if device.platform == "cpu" and jax.process_count() == 1 else run.mesh
    return dataclasses.replace(run, config=config, mesh=mesh)


def load_backbones(run: Run) -> dict[str, Backbone]:
    """Features of config.backbones.teacher and .student, from the cache or computed into it."""
    config = run.config
    views = tuple(f"contrast{i + 1}" for i in range(config.features.contrast_views))
    training = subset(run.dataset, run.protocol.train)
    found = {}
    run.seconds["features"] = 0.0
    for name in ("teacher", "student"):
        teacher = load_teacher(
            name,
            config.backbones[name].to_dict(),
            weights_dir=config.weights_dir,
            image_size=config.image_size,
            classes=run.classes,
            dtype=config.features.dtype,
        )
        plain, seconds = cached_views(run, teacher, run.dataset, ("original",))
        seen, more = cached_views(run, teacher, training, views)
        run.seconds["features"] += seconds + more
        original = plain["original"]["features"]
        mean = original[run.protocol.train].mean(axis=0)
        std = original[run.protocol.train].std(axis=0)
        std = np.maximum(
            std, 0.1 * std.mean()
        )  # a channel that hardly fires in training must not rule elsewhere
        stacked = np.stack([seen[view]["features"] for view in views], axis=1)
        found[name] = Backbone(teacher, (original - mean) / std, (stacked - mean) / std)
    return found


def train_teacher(run: Run, backbone: Backbone) -> Hashed:
    """The teacher: config.hasher's base method on the teacher's features, without labels."""
    return _train(run, "teacher", backbone, run.config.hasher.teacher_hidden, {}, lambda base: base, [])


def teach(run: Run, teacher: Hashed, backbone: Backbone) -> Taught:
    """Codes of all views, k-means of the unaugmented ones; config.clusters.count 0 takes the elbow of config.clusters.counts."""
    config = run.config.clusters
    inputs = fingerprint(teacher.inputs, config)
    folder = run.workdir / f"seed{run.config.seed}" / "clusters"
    codes = _codes(teacher, backbone.original[run.protocol.train])
    view_codes = _codes(teacher, backbone.views.reshape(-1, backbone.views.shape[-1]))
    notes = finished(folder, inputs)
    if notes is None:
        begin(folder, inputs)
        choice, count = None, config.count
        if not count:
            choice = choose_count(codes, tuple(config.counts), seed=run.config.seed)._asdict()
            count = choice["elbow"]
        found = cluster_codes(codes, count, seed=run.config.seed, starts=config.starts)
        np.savez(folder / "clusters.npz", centers=found.centers, members=found.members)
        notes = finish(folder, inputs, {"inertia": found.inertia, "choice": choice})
    with np.load(folder / "clusters.npz") as arrays:
        clusters = Clusters(arrays["centers"], arrays["members"], notes["inertia"])
    shape = (*backbone.views.shape[:2], run.config.bits)
    return Taught(teacher, codes, view_codes.reshape(shape), backbone.views, clusters, notes["choice"])


def train_student(run: Run, name: str, form: ConfigDict, taught: Taught, backbone: Backbone) -> Hashed:
    """A student: config.hasher's base method on the student's features, and what `form` adds to its loss."""
    options = form.to_dict()
    kind, weight = options.pop("kind"), options.pop("weight", 1.0)
    data: dict[str, np.ndarray] = {}
    if kind != "none":
        data["views_teacher_codes"] = taught.view_codes
    if kind == "feature":
        data["views_teacher_features"] = taught.features
    if kind == "brcd":
        data["cluster"] = taught.clusters.members
        rule, margin = options.pop("mask"), options.pop("margin")
        options |= {"temperature": run.config.hasher.temperature}
        objective = brcd(jnp.asarray(taught.clusters.centers), cluster_masks(taught, rule, margin), **options)
    elif kind != "none":
        objective = BASELINES[kind](**options)

    def wrap(base: Method) -> Method:
        return base if kind == "none" else distilled(base, objective, weight=weight)

    depends = [] if kind == "none" else [taught.teacher.inputs, run.config.clusters.to_dict(), form.to_dict()]
    return _train(run, name, backbone, run.config.student.hidden, data, wrap, depends)


def cluster_masks(taught: Taught, rule: str, margin: float) -> jax.Array | None:
    """Bit masks of the clusters, [clusters, bits]; None for the rule 'none'."""
    if rule == "none":
        return None
    count = len(taught.clusters.centers)
    codes, members = jnp.asarray(taught.codes), jnp.asarray(taught.clusters.members)
    return bit_masks(codes, members, count, margin=margin, rule=rule)


def _train(
    run: Run,
    name: str,
    backbone: Backbone,
    hidden: int,
    data: dict[str, np.ndarray],
    wrap: Callable[[Method], Method],
    depends: list[Any],
) -> Hashed:
    """Trains one hasher on cached views. `data` holds what the loss needs beside, by training picture."""
    config, hasher = run.config, run.config.hasher
    regress_to = data["views_teacher_features"].shape[-1] if "views_teacher_features" in data else 0
    options = {key: hasher[key] for key in BASES[hasher.base].options}
    model = Hasher(config.bits, hidden, regress_to)
    method = wrap(BASES[hasher.base].make(model, **options))
    inputs = fingerprint(
        run.identity(),
        {"backbone": backbone.teacher.identity, "views": config.features.contrast_views, "bits": config.bits},
        {"base": hasher.base, "hidden": hidden, "options": options},
        hasher.schedule,
        depends,
    )
    places = np.full(len(run.dataset), -1)
    places[run.protocol.train] = np.arange(len(run.protocol.train))

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        chosen = places[rows]
        return {"views": backbone.views[chosen], **{key: values[chosen] for key, values in data.items()}}

    encode = jax.jit(method.encode)

    def packed(variables, rows: np.ndarray) -> np.ndarray:
        return pack_codes(chunked(lambda part: encode(variables, backbone.original[part]), rows, 10000))

    def validate(variables) -> float:
        query = run.protocol.validation
        database = np.setdiff1d(run.protocol.database, query)
        labels = run.dataset.labels
        codes = packed(variables, query), packed(variables, database)
        return mean_average_precision(*codes, labels[query], labels[database], VALIDATION_K)

    example = jax.eval_shape(
        choose_views, jax.random.split(jax.random.key(0), 1), fetch(run.protocol.train[:1])
    )
    trained = train_row(
        run,
        f"seed{config.seed}/{name}",
        inputs,
        method,
        fetch,
        hasher.schedule,
        example=example,
        prepare=choose_views,
        validate=validate,
    )
    run.say(f"seed {config.seed} {name}: validation mAP@{VALIDATION_K} {trained.validation:.4f}")
    codes = packed(trained.variables, np.arange(len(run.dataset)))
    return Hashed(name, config.seed, method, trained, codes, inputs)


def choose_views(keys: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
    """Two different ones of each item's views, drawn anew: 'views' becomes 'view_i' and 'view_j', 'views_x' 'x_i' and 'x_j'."""
    count = batch["views"].shape[1]

    def draw(key):
        first, second = jax.random.split(key)
        i = jax.random.randint(first, (), 0, count)
        return i, (i + jax.random.randint(second, (), 1, count)) % count

    places = jax.vmap(draw)(keys)
    chosen = {}
    for name, values in batch.items():
        if not name.startswith("views"):
            chosen[name] = values
            continue
        short = "view" if name == "views" else name.removeprefix("views_")
        for view, place in zip("ij", places, strict=True):
            chosen[f"{short}_{view}"] = jax.vmap(lambda value, at: value[at])(values, place)
    return chosen


def _codes(hashed: Hashed, features: np.ndarray) -> np.ndarray:
    encode = jax.jit(hashed.method.encode)
    variables = hashed.trained.variables
    logits = chunked(lambda part: encode(variables, features[part]), np.arange(len(features)), 10000)
    return np.where(logits >= 0, 1.0, -1.0).astype(np.float32)

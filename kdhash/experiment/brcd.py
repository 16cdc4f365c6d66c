"""The stages of a BRCD run: a teacher hasher, clusters of its codes, students."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdhash.experiment.context import Run, for_heads
from kdhash.experiment.hasher_inputs import Inputs, choose_views
from kdhash.experiment.train_row import Trained, train_row
from kdhash.experiment.workdir import begin, fingerprint, finish, finished
from kdhash.losses import bit_masks
from kdhash.methods.brcd import BASELINES, brcd, distilled
from kdhash.methods.clusters import Clusters, choose_count, cluster_codes
from kdhash.methods.interface import Method
from kdhash.methods.unsupervised import BASES
from kdhash.models.hasher import Hasher
from kdhash.processes import appear, by_first
from kdhash.retrieval import mean_average_precision, pack_codes
from kdhash.training.mapping import AXIS, make_encode

VALIDATION_K = 1000
Read = Callable[[np.ndarray], np.ndarray]  # rows -> inputs of a network


class Hashed(NamedTuple):
    """A trained hasher, and its codes of all pictures."""

    name: str
    seed: int
    method: Method
    trained: Trained
    packed: np.ndarray  # [rows, bytes]
    encode: Callable[[Read, np.ndarray], np.ndarray]  # (how rows are read, rows) -> logits
    inputs: str  # fingerprint of all it depends on


class Taught(NamedTuple):
    """What students learn from. Codes are -1 or +1, of the training pictures."""

    teacher: Hashed
    codes: np.ndarray  # [training pictures, bits], unaugmented
    view_codes: np.ndarray  # [training pictures, views, bits]
    features: np.ndarray | None  # [training pictures, views, width], of a frozen teacher
    clusters: Clusters
    choice: dict[str, Any] | None  # what each count of clusters gave, where the elbow was asked for


def train_teacher(run: Run, inputs: Inputs) -> Hashed:
    """The teacher: config.hasher's base method, without labels."""
    return _train(run, "teacher", inputs, run.config.hasher.teacher_hidden, {}, lambda base: base, [])


def teach(run: Run, teacher: Hashed, inputs: Inputs) -> Taught:
    """Codes of all views, k-means of the unaugmented ones; config.clusters.count 0 takes the elbow of config.clusters.counts."""
    config = run.config.clusters
    depends = fingerprint(teacher.inputs, config)
    folder = run.workdir / f"seed{run.config.seed}" / "clusters"
    places = np.arange(len(run.protocol.train))
    numbers = range(1, run.config.features.contrast_views + 1)
    codes = _signs(teacher.encode(inputs.original, run.protocol.train))
    view_codes = [_signs(teacher.encode(partial(inputs.view, number), places)) for number in numbers]
    features = (
        np.stack([inputs.view(number, places) for number in numbers], axis=1) if inputs.frozen else None
    )

    def work() -> dict[str, Any]:
        notes = finished(folder, depends)
        if notes is not None:
            return notes
        begin(folder, depends)
        choice, count = None, config.count
        if not count:
            choice = choose_count(codes, tuple(config.counts), seed=run.config.seed)._asdict()
            count = choice["elbow"]
        found = cluster_codes(codes, count, seed=run.config.seed, starts=config.starts)
        np.savez(folder / "clusters.npz", centers=found.centers, members=found.members)
        return finish(folder, depends, {"inertia": found.inertia, "choice": choice})

    notes = by_first(work)
    with np.load(appear(folder / "clusters.npz")) as arrays:
        clusters = Clusters(arrays["centers"], arrays["members"], notes["inertia"])
    return Taught(teacher, codes, np.stack(view_codes, axis=1), features, clusters, notes["choice"])


def train_student(run: Run, name: str, form: ConfigDict, taught: Taught, inputs: Inputs) -> Hashed:
    """A student: config.hasher's base method, and what `form` adds to its loss."""
    options = form.to_dict()
    kind, weight = options.pop("kind"), options.pop("weight", 1.0)
    data: dict[str, np.ndarray] = {}
    if kind != "none":
        data["views_teacher_codes"] = taught.view_codes
    if kind == "feature" and taught.features is not None:
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
    return _train(run, name, inputs, run.config.student.hidden, data, wrap, depends)


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
    inputs: Inputs,
    hidden: int,
    data: dict[str, np.ndarray],
    wrap: Callable[[Method], Method],
    depends: list[Any],
) -> Hashed:
    """Trains one hasher. `data` holds what its loss needs beside, by training picture."""
    config, hasher, protocol = run.config, run.config.hasher, run.protocol
    if inputs.frozen:
        run = for_heads(run)
    regress_to = data["views_teacher_features"].shape[-1] if "views_teacher_features" in data else 0
    options = {key: hasher[key] for key in BASES[hasher.base].options}
    axis_name = AXIS if config.mapping == "pmap" else None
    model = Hasher(
        config.bits,
        hidden,
        regress_to,
        axis_name=axis_name,
        remat=run.remat,
        dtype=jnp.dtype(run.dtype),
        **inputs.model,
    )
    method = wrap(BASES[hasher.base].make(model, **options))
    depends_on = fingerprint(
        run.identity(),
        {"inputs": inputs.identity, "views": config.features.contrast_views, "bits": config.bits},
        {"base": hasher.base, "hidden": hidden, "options": options},
        hasher.schedule,
        depends,
    )
    places = np.full(len(run.dataset), -1)
    places[protocol.train] = np.arange(len(protocol.train))

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        chosen = places[rows]
        return inputs.batch(chosen) | {key: values[chosen] for key, values in data.items()}

    mapped = make_encode(method, run.mesh, config.features.batch_size)

    def packed(variables, rows: np.ndarray) -> np.ndarray:
        return pack_codes(mapped(variables, inputs.original, rows))

    def validate(variables) -> float:
        query = protocol.validation
        database = np.setdiff1d(protocol.database, query)
        labels = run.dataset.labels
        codes = packed(variables, query), packed(variables, database)
        return run.by_first(
            lambda: mean_average_precision(*codes, labels[query], labels[database], VALIDATION_K)
        )

    choose = choose_views(config.features.contrast_views)
    one = fetch(protocol.train[:1])
    trained = train_row(
        run,
        f"seed{config.seed}/{name}",
        depends_on,
        method,
        fetch,
        hasher.schedule,
        example=jax.eval_shape(choose, jax.random.split(jax.random.key(0), 1), one),
        prepare=choose,
        validate=validate,
    )
    run.say(f"seed {config.seed} {name}: validation mAP@{VALIDATION_K} {trained.validation:.4f}")

    def encode(read: Read, rows: np.ndarray) -> np.ndarray:
        return mapped(trained.variables, read, rows)

    codes = packed(trained.variables, np.arange(len(run.dataset)))
    return Hashed(name, config.seed, method, trained, codes, encode, depends_on)


def _signs(logits: np.ndarray) -> np.ndarray:
    return np.where(logits >= 0, 1.0, -1.0).astype(np.float32)

"""Stages `features` and `teacher`: frozen networks once over all pictures, then hash heads on what they saw."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdhash.experiment.context import Run, chunked, for_heads
from kdhash.experiment.train_row import WEIGHTS, Trained, train_row
from kdhash.experiment.workdir import fingerprint
from kdhash.methods.dmth import LossWeights, fusion_outputs, fusion_teacher
from kdhash.processes import first
from kdhash.progress import Progress
from kdhash.retrieval import mean_average_precision, pack_codes
from kdhash.teachers.extract import Features, Pictures, extract_features
from kdhash.teachers.registry import Teacher, load_teacher


class Cached(NamedTuple):
    """A teacher's cached outputs by view, and the mean and deviation of its features over the training pictures."""

    views: Features
    mean: np.ndarray  # [width]
    std: np.ndarray  # [width]


class Head(NamedTuple):
    """A trained hash head on one or several teachers' features.

    Its validation score is the mAP@all of unseen views of validation pictures that search the training pictures.
    """

    name: str  # 'resnet20' (a single teacher), or a form of config.teacher.forms
    members: tuple[str, ...]
    views: tuple[str, ...]  # what each member sees of a picture: one token a view
    fusion: dict[str, Any]
    inputs: str  # fingerprint of all it depends on
    trained: Trained


def load_teachers(run: Run, dtype: str | None = None) -> dict[str, Teacher]:
    """The frozen networks of the config, from weights_dir or from the pretrain stage; they compute in `dtype`, by default in
    config.features.dtype."""
    config = run.config
    teachers = {}
    for name, spec in config.teachers.items():
        folder: Path | str = config.weights_dir
        recipe = spec.to_dict()
        if "pretrain" in config:
            folder, recipe["weights"] = run.workdir / "pretrain" / name, WEIGHTS
        teachers[name] = load_teacher(
            name,
            recipe,
            weights_dir=folder,
            image_size=config.image_size,
            classes=run.classes,
            dtype=dtype or config.features.get("dtype", "float32"),
        )
    return teachers


def cache_features(run: Run, teachers: dict[str, Teacher]) -> dict[str, Cached]:
    """Every teacher's features of every view in config.features.views, from the cache or computed into it."""
    spent = {}
    features = {}
    for name, teacher in teachers.items():
        views, spent[name] = cached_views(run, teacher, run.dataset, tuple(run.config.features.views))
        seen = views["original"]["features"][run.protocol.train]
        features[name] = Cached(views, seen.mean(axis=0), seen.std(axis=0) + 1e-6)
    run.seconds["features"] = sum(spent.values())
    return features


def cached_views(
    run: Run, teacher: Teacher, dataset: Pictures, views: tuple[str, ...]
) -> tuple[Features, float]:
    """A teacher's outputs of every view of `dataset`, with progress on the terminal; and the seconds that it took."""
    config = run.config
    watches: dict[str, Progress] = {}

    def progress(view: str, done: int, total: int, _seconds: float) -> None:
        if view not in watches:  # the first shard is done: the rate is that of the others
            watches[view] = Progress(f"features {teacher.name} {view}", total, "images", start=done)
        watches[view].update(done)
        if done == total:
            watches[view].close()

    start = time.perf_counter()
    found, computed = extract_features(
        teacher,
        dataset,
        views,
        Path(config.cache_dir) if config.cache_dir else run.workdir / "features",
        mesh=run.mesh,
        batch_size=config.features.batch_size,
        progress=progress if first() else None,
    )
    seconds = computed or time.perf_counter() - start
    state = "computed" if computed else "read from the cache"
    run.say(f"features {teacher.name}: {state} in {seconds:.1f} s")
    return found, seconds


def train_heads(run: Run, teachers: dict[str, Teacher], features: dict[str, Cached]) -> dict[str, Head]:
    """A hash head for every form of fusion in config.teacher.rows; the forms 'single...' give one for each teacher."""
    run = for_heads(run)
    names = tuple(teachers)
    heads = {}
    for form in run.config.teacher.rows:
        wanted: dict[str, tuple[str, ...]] = {form: names}
        if form.startswith("single"):
            wanted = {name + form.removeprefix("single"): (name,) for name in names}
        for label, members in wanted.items():
            heads[label] = _train_head(run, label, form, members, teachers, features)
            run.say(f"teacher {label}: validation mAP@all {heads[label].trained.validation:.4f}")
    run.seconds["teacher"] = sum(head.trained.seconds for head in heads.values())
    return heads


def best_single(heads: dict[str, Head]) -> Head | None:
    """The single teacher whose codes score best on validation pictures; None where config.teacher.rows lacks 'single'."""
    singles = [head for head in heads.values() if head.name in head.members]
    return max(singles, key=lambda head: head.trained.validation, default=None)


def head_outputs(
    run: Run, head: Head, features: dict[str, Cached], view: str, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """'codes' [rows, bits], 'fused' [rows, width], 'logits' and 'attention' [rows, tokens] of a picture ('original') or of
    its mirror image ('flip'); a head that sees both says the same of both."""
    apply = jax.jit(
        lambda variables, batch: fusion_outputs(
            variables, batch, bits=run.config.bits, classes=run.classes, fusion=head.fusion
        )
    )
    seen = head.views if len(head.views) > 1 else (view,)
    return chunked(
        lambda part: apply(head.trained.variables, head_tokens(features, head.members, seen, part)),
        rows,
        10000,
    )


def _train_head(
    run: Run,
    label: str,
    form: str,
    members: tuple[str, ...],
    teachers: dict[str, Teacher],
    features: dict[str, Cached],
) -> Head:
    config = run.config.teacher
    options = config.forms[form].to_dict()
    seen = tuple(options.pop("views"))
    # What sees one view learns from a picture and its mirror image alike; what sees both needs no choice.
    choices = [seen] if len(seen) > 1 else [(view,) for view in config.views]
    unseen = tuple(config.validation_views)[: len(seen)]
    fusion = {"width": config.width, **options}
    weights = LossWeights(quantization=config.quantization, balance=config.balance)
    inputs = fingerprint(
        run.identity(),
        {"choices": choices, "unseen": unseen, "noise": config.noise, "objective": config.objective},
        weights._asdict(),
        config.schedule,
        fusion,
        run.config.bits,
        {name: teachers[name].identity for name in members},
    )
    method = fusion_teacher(
        bits=run.config.bits,
        classes=run.classes,
        fusion=fusion,
        weights=weights,
        objective=config.objective,
    )
    labels = run.dataset.labels

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        """Features as {token: [rows, choices, width]}."""
        parts = [head_tokens(features, members, views, rows) for views in choices]
        return {
            "features": {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]},
            "label": labels[rows],
        }

    def choose(keys: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
        """One of the choices, the same for all tokens of a picture, and noise on each."""

        def one(key: jax.Array, tokens: dict[str, jax.Array]) -> dict[str, jax.Array]:
            pick, spread = jax.random.split(key)
            place = jax.random.randint(pick, (), 0, len(choices))
            ends = np.cumsum([token.shape[-1] for token in tokens.values()])
            # one draw for all tokens: every further one takes its time to compile
            noise = jnp.split(config.noise * jax.random.normal(spread, (ends[-1],)), ends[:-1])
            return {
                name: token[place] + part for (name, token), part in zip(tokens.items(), noise, strict=True)
            }

        return batch | {"features": jax.vmap(one)(keys, batch["features"])}

    encode = jax.jit(method.encode)

    @functools.cache
    def validated(part: str, views: tuple[str, ...]) -> dict[str, np.ndarray]:
        return head_tokens(features, members, views, getattr(run.protocol, part))

    def codes(variables, part: str, views: tuple[str, ...]) -> np.ndarray:
        return pack_codes(np.asarray(encode(variables, validated(part, views))))

    def validate(variables) -> float:
        # The networks know their training pictures by heart, these held-out ones among them: only in views that they
        # have not seen are these like new pictures.
        query, database = run.protocol.validation, run.protocol.train
        return mean_average_precision(
            codes(variables, "validation", unseen),
            codes(variables, "train", seen),
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
        example=jax.eval_shape(choose, jax.random.split(jax.random.key(0), 1), one),
        prepare=choose,
        validate=validate,
    )
    return Head(label, members, seen, fusion, inputs, trained)


def validation_map(encode_rows: Callable[[np.ndarray], np.ndarray], run: Run) -> float:
    """mAP@all (expected ties) among the held-out pictures: every fifth is a query, the others are the database."""
    rows = run.protocol.validation
    codes = pack_codes(np.asarray(encode_rows(rows)))
    labels = run.dataset.labels[rows]
    query = np.arange(len(rows)) % 5 == 0
    return run.by_first(
        lambda: mean_average_precision(codes[query], codes[~query], labels[query], labels[~query])
    )


def head_tokens(
    features: dict[str, Cached], members: tuple[str, ...], views: tuple[str, ...], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """What a head reads, {token: [rows, width]}, standardised: every member's features of the first view, then of the second."""
    return {
        token_name(name, place): (features[name].views[view]["features"][rows] - features[name].mean)
        / features[name].std
        for place, view in enumerate(views)
        for name in members
    }


def token_name(member: str, place: int) -> str:
    """Of what a member says of the view that stands at `place` among those that a head sees."""
    return member if place == 0 else f"{member}_view{place + 1}"

"""The stages of a KDCMH run: the fused similarity, a teacher of both modalities, students of its codes."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import kdhash
from kdhash import stopping
from kdhash.experiment.context import Run, for_heads
from kdhash.experiment.pair_inputs import PairInputs
from kdhash.experiment.train_row import Trained, train_row
from kdhash.experiment.workdir import begin, fingerprint, finish, finished
from kdhash.methods.fused_similarity import FusedSimilarity, fit_fused_similarity, similarity_threshold
from kdhash.methods.kdcmh import FITTED, GROWING, OBJECTIVES, two_towers
from kdhash.models.two_towers import TwoTowers
from kdhash.processes import appear, by_first
from kdhash.retrieval import instance_recall, mean_average_precision, pack_codes, unpack_codes
from kdhash.training.mapping import make_encode

VALIDATION_K = 50
VALIDATION_RECALL = 10  # where the data have no labels


class PairHashed(NamedTuple):
    """A trained pair of hashers, and their codes of all rows."""

    name: str
    seed: int
    inputs: PairInputs
    trained: Trained
    image: np.ndarray  # packed [rows, bytes]
    text: np.ndarray
    captions: Callable[[list[str]], np.ndarray]  # single texts -> packed codes
    identity: str  # fingerprint of all it depends on


def fit_similarity(
    run: Run, inputs: PairInputs, weights: tuple[float, float, float], place: str = "similarity"
) -> FusedSimilarity:
    """Stage 1, on the teacher's features of all training pairs, with shares `weights`: in workdir/`place`."""
    config, train = run.config.similarity, run.protocol.train
    depends = fingerprint(
        {"kdhash": kdhash.__version__, "dataset": run.dataset.fingerprint, "protocol": run.protocol.checksum},
        inputs.identity,
        {"weights": weights, "k_left": config.k_left, "k_right": config.k_right},
    )
    folder = run.workdir / place

    def work() -> dict[str, Any]:
        notes = finished(folder, depends)
        if notes is not None:
            return notes
        begin(folder, depends)
        start = time.perf_counter()
        fitted = fit_fused_similarity(
            inputs.image_seen[train],
            inputs.text_seen[train],
            weights=weights,
            k_left=config.k_left,
            k_right=config.k_right,
        )
        np.savez(folder / "similarity.npz", **fitted._asdict())
        facts = {name: float(getattr(fitted, name)) for name in ("mode", "left", "right")}
        run.say(
            f"{place}: mode {fitted.mode:.3f}, dissimilar below {fitted.left:.3f}, similar above {fitted.right:.3f}"
        )
        return finish(folder, depends, facts | {"seconds": time.perf_counter() - start})

    stopping.check()
    notes = by_first(work)
    run.seconds[place] = notes["seconds"]
    with np.load(appear(folder / "similarity.npz")) as arrays:
        return FusedSimilarity(**{name: arrays[name].astype(np.float32) for name in FusedSimilarity._fields})


def train_pair_teacher(run: Run, similarity: FusedSimilarity, inputs: PairInputs) -> PairHashed:
    """Stage 2: hashers of both modalities learn the fused similarity."""
    form = {"kind": "fused", "intra": run.config.teacher.intra}
    return _train(run, "teacher", run.config.teacher, form, similarity, inputs, inputs, {}, [])


def train_pair_student(
    run: Run,
    name: str,
    similarity: FusedSimilarity,
    teacher: PairHashed,
    inputs: PairInputs,
) -> PairHashed:
    """Stages 3 and 4: a student of the teacher's codes, or what it is compared with, which learns from features."""
    form = run.config.student.forms[name].to_dict()
    data: dict[str, np.ndarray] = {}
    depends: list[Any] = []
    if form["kind"] == "kdcmh":
        train = run.protocol.train
        codes = {"image_code": teacher.image, "text_code": teacher.text}
        data = {name: unpack_codes(packed[train]).astype(np.float32) for name, packed in codes.items()}
        depends = [teacher.identity]
    if form["kind"] == "jdsh":  # its own shares, and thresholds fitted to them
        similarity = fit_similarity(run, teacher.inputs, tuple(form["weights"]), f"similarity_{name}")
    return _train(run, name, run.config.student, form, similarity, inputs, teacher.inputs, data, depends)


def _objective(
    run: Run, form: dict[str, Any], similarity: FusedSimilarity, data: dict[str, np.ndarray]
) -> Callable:
    options = {name: value for name, value in form.items() if name not in ("kind", "weights")}
    kind = form["kind"]
    if kind in FITTED:
        weights = {name: run.config.similarity[name] for name in ("l1", "l2", "mu")}
        return OBJECTIVES[kind](jax.tree.map(jnp.asarray, similarity), **weights, **options)
    if kind == "kdcmh" and (pairs := options.pop("pairs")):
        both = np.concatenate([data["image_code"], data["text_code"]], axis=1)
        options["threshold"] = similarity_threshold(both, both, pairs)
    return OBJECTIVES[kind](**options)


def _train(
    run: Run,
    name: str,
    sizes: ConfigDict,
    form: dict[str, Any],
    similarity: FusedSimilarity,
    inputs: PairInputs,
    seen: PairInputs,
    data: dict[str, np.ndarray],
    depends: list[Any],
) -> PairHashed:
    """Trains one pair of hashers on `inputs`; similarities are taken of the features of `seen`."""
    run = for_heads(run)
    config, protocol = run.config, run.protocol
    model = TwoTowers(config.bits, sizes.image_hidden, sizes.text_hidden, dtype=jnp.dtype(run.dtype))
    method = two_towers(model, _objective(run, form, similarity, data), grow=form["kind"] in GROWING)
    identity = fingerprint(
        run.identity(),
        {"inputs": inputs.identity, "seen": seen.identity, "bits": config.bits},
        {"image_hidden": sizes.image_hidden, "text_hidden": sizes.text_hidden, "form": form},
        config.similarity,
        config.schedule,
        depends,
    )
    places = np.full(len(run.dataset), -1)
    places[protocol.train] = np.arange(len(protocol.train))

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        batch = {"image": inputs.image[rows], "texts": inputs.views[places[rows]]}
        if form["kind"] != "kdcmh":
            batch |= {"image_seen": seen.image_seen[rows], "text_seen": seen.text_seen[rows]}
        return batch | {key: values[places[rows]] for key, values in data.items()}

    encode = make_encode(method, run.mesh, config.features.batch_size)

    def packed(variables, modality: str, values: np.ndarray) -> np.ndarray:
        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            return {modality: values[rows]}

        return pack_codes(encode(variables, read, np.arange(len(values))))

    def validate(variables) -> float:
        codes = [packed(variables, "image", inputs.image), packed(variables, "text", inputs.text)]
        return validation_score(run, *codes)

    trained = train_row(
        run,
        f"seed{config.seed}/{name}",
        identity,
        method,
        fetch,
        config.schedule,
        example=_example(inputs),
        prepare=draw_text,
        validate=validate,
        with_epoch=True,
    )
    run.say(f"seed {config.seed} {name}: validation {trained.validation:.4f}")

    def captions(texts: list[str]) -> np.ndarray:
        return packed(trained.variables, "text", inputs.captions(texts))

    image, text = (packed(trained.variables, kind, getattr(inputs, kind)) for kind in ("image", "text"))
    return PairHashed(name, config.seed, inputs, trained, image, text, captions, identity)


def draw_text(keys: jax.Array, batch: dict[str, Any]) -> dict[str, Any]:
    """Inside the jitted step: one of each item's 'texts' [batch, texts, width] becomes its 'text', drawn anew."""
    texts = batch["texts"]
    drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, texts.shape[1]))(keys)
    text = jax.vmap(lambda each, at: each[at])(texts, drawn)
    return {name: value for name, value in batch.items() if name != "texts"} | {"text": text}


def validation_score(run: Run, image: np.ndarray, text: np.ndarray) -> float:
    """The mean of both directions: mAP@50 of validation pairs that search the rest of the database; without labels recall@10
    among the validation pairs."""
    query = run.protocol.validation
    labels = run.dataset.labels
    if labels is None:
        own = np.arange(len(query))
        found = [
            instance_recall(a[query], b[query], own, own, (VALIDATION_RECALL,))
            for a, b in ((image, text), (text, image))
        ]
        return float(np.mean([each[f"recall@{VALIDATION_RECALL}"] for each in found]))
    query = query[labels[query].any(axis=1)]
    database = np.setdiff1d(run.protocol.database, run.protocol.validation)
    scores = [
        mean_average_precision(a[query], b[database], labels[query], labels[database], VALIDATION_K)
        for a, b in ((image, text), (text, image))
    ]
    return float(np.mean(scores))


def _example(inputs: PairInputs) -> dict[str, Any]:
    return {
        name: jax.ShapeDtypeStruct((1, getattr(inputs, name).shape[1]), jnp.float32)
        for name in ("image", "text")
    }

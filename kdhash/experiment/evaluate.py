"""Stage `evaluate`: every row's codes of query and database, their scores, and what an image costs."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdhash import stopping
from kdhash.experiment.context import Run, on_own_devices
from kdhash.experiment.student import Student
from kdhash.experiment.teacher import Cached, Head, best_single, head_outputs, head_tokens
from kdhash.experiment.workdir import begin, fingerprint, finish, finished
from kdhash.methods.dmth import fusion_outputs
from kdhash.methods.fitted import fit_itq, fit_lsh
from kdhash.models.backbones import make_backbone
from kdhash.models.cost import multiply_adds
from kdhash.processes import by_first, first
from kdhash.retrieval import evaluate, float_map, pack_codes, search
from kdhash.teachers.registry import Teacher
from kdhash.training.mapping import make_encode, put_batch, replicate

GRID_QUERIES, GRID_RESULTS = 8, 10


class Scores(NamedTuple):
    """What the evaluate stage hands to the report."""

    rows: list[dict[str, Any]]
    arrays: dict[str, Any]


def evaluate_rows(
    run: Run,
    teachers: dict[str, Teacher],
    features: dict[str, Cached],
    heads: dict[str, Head],
    students: dict[str, Student],
) -> Scores:
    """Scores of all rows: single teachers, fusions, students, float features, ITQ and LSH."""
    depends = [head.inputs for head in heads.values()] + [
        (student.name, student.trained.validation, student.trained.seconds) for student in students.values()
    ]
    inputs = fingerprint(run.identity(), run.hardware(), run.config.evaluate, depends)
    folder = run.workdir / "evaluate"
    notes = by_first(lambda: finished(folder, inputs))
    if notes is None:
        start = time.perf_counter()
        codes = {name: _student_codes(run, student) for name, student in students.items()}

        def score() -> dict[str, Any]:
            begin(folder, inputs)
            _save(folder, _evaluate(run, teachers, features, heads, students, codes))
            return finish(folder, inputs, {"seconds": time.perf_counter() - start})

        notes = by_first(score)
    run.seconds["evaluate"] = notes["seconds"]
    return _load(folder) if first() else Scores([], {})


def _student_codes(run: Run, student: Student) -> np.ndarray:
    """Of all pictures, by all devices."""
    encode = make_encode(student.method, run.mesh, run.config.features.batch_size)
    return encode(student.trained.variables, run.pictures, np.arange(len(run.dataset)))


def _evaluate(run, teachers, features, heads, students, student_codes) -> Scores:
    everything = np.arange(len(run.dataset))
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {"radius_curves": {}, "precision_at": {}, "retrieval_grid": []}
    network_ms = {name: _encode_ms(run, teacher) for name, teacher in teachers.items()}
    network_cost = {name: frozen_multiply_adds(teacher) for name, teacher in teachers.items()}

    def add(group: str, name: str, codes: np.ndarray, **facts: Any) -> np.ndarray:
        packed = pack_codes(codes)
        metrics = _code_metrics(run, packed)
        for curve in ("precision_macro", "recall_macro"):
            arrays["radius_curves"].setdefault(name, {})[curve.split("_")[0]] = metrics.pop(f"curve_{curve}")
        arrays["precision_at"]["k"] = metrics.pop("curve_k")
        arrays["precision_at"][name] = metrics.pop("curve_precision_at_k")
        scalars = {key: value for key, value in metrics.items() if isinstance(value, float)}
        rows.append({"group": group, "name": name, "metrics": scalars, **facts})
        run.say(f"evaluate {name}: mAP@all {scalars['map@all']:.4f}")
        return packed

    fused_outputs = {}
    for label, head in heads.items():
        outputs = head_outputs(run, head, features, "original", everything)
        single = len(head.members) == 1
        add(
            "teacher" if single else "fusion",
            label,
            outputs["codes"],
            note=f"{len(head.members)} networks, {len(head.views)} views",
            networks=len(head.members),
            views=len(head.views),
            validation=head.trained.validation,
            encode_ms=sum(network_ms[name] for name in head.members) * len(head.views),
            parameters=sum(teachers[name].parameters for name in head.members)
            + parameter_count(head.trained.variables),
            multiply_adds=sum(network_cost[name] for name in head.members) * len(head.views)
            + _head_cost(run, head, features),
            seconds=head.trained.seconds,
            accuracy=_accuracy(run, outputs["logits"]),
        )
        if not single:
            fused_outputs[label] = outputs
    grids = {}
    for name, student in students.items():
        label = student_label(student)
        grids[label] = add(
            "student",
            label,
            student_codes[name],
            note=f"{run.config.student.arch} {_sizes(run)}",
            validation=student.trained.validation,
            encode_ms=_student_ms(run, student),
            parameters=parameter_count(student.trained.variables),
            multiply_adds=multiply_adds(
                student.method.encode, student.trained.variables, run.example_picture()["image"]
            ),
            seconds=student.trained.seconds,
            accuracy=None,
        )
    for label, packed in grids.items():
        arrays["retrieval_grid"].append(retrieved(run, label, packed))
    if run.config.evaluate.baselines:
        _feature_rows(run, features, heads, fused_outputs, network_ms, rows, add)
    fused = fused_outputs.get(run.config.student.teacher)
    if fused is not None:
        arrays["attention"] = _attention_by_class(run, heads[run.config.student.teacher], fused["attention"])
    return Scores(rows, arrays)


def student_label(student: Student) -> str:
    """The name of a student's row: 'student, no transfer' or 'student, taught by ...'."""
    return f"student, taught by {student.teacher.name}" if student.teacher else "student, no transfer"


def _feature_rows(run, features, heads, fused_outputs, network_ms, rows, add) -> None:
    """Exact cosine search on floats (the upper line), and ITQ and LSH on the same features (the lower lines)."""
    teachers = list(features)
    raw = np.concatenate([_unit(features[name].views["original"]["features"]) for name in teachers], axis=1)
    sets = {"all teachers' features": (raw, sum(network_ms.values()))}
    best = best_single(heads)
    if best is not None:
        sets[f"{best.name} features"] = (
            features[best.name].views["original"]["features"],
            network_ms[best.name],
        )
    for label, outputs in fused_outputs.items():
        if label == run.config.student.teacher:
            sets[f"{label} fused features"] = (
                outputs["fused"],
                sum(network_ms.values()) * len(heads[label].views),
            )
    query, database, train = run.protocol.query, run.protocol.database, run.protocol.train
    labels = run.dataset.labels
    for name, (values, ms) in sets.items():
        start = time.perf_counter()
        scores = float_map(
            values[query], values[database], labels[query], labels[database], tuple(run.config.evaluate.ks)
        )
        facts = {"encode_ms": ms, "parameters": None, "accuracy": None}
        rows.append(
            {
                "group": "float",
                "name": f"cosine, {name}",
                "metrics": scores,
                "seconds": None,
                "note": f"{values.shape[1]} floats an image, searched exactly",
                **facts,
            }
        )
        run.say(
            f"evaluate cosine, {name}: mAP@all {scores['map@all']:.4f} ({time.perf_counter() - start:.0f} s)"
        )
        fits: dict[str, Callable] = {"LSH": fit_lsh}
        if values.shape[1] >= run.config.bits:
            fits["ITQ"] = fit_itq
        for kind, fit in fits.items():
            start = time.perf_counter()
            hasher = fit(values[train], run.config.bits, seed=run.config.seed)
            seconds = time.perf_counter() - start
            add(
                "fitted", f"{kind}, {name}", hasher.encode(values), note="no labels", seconds=seconds, **facts
            )


def _code_metrics(run: Run, packed: np.ndarray) -> dict[str, Any]:
    query, database, labels = run.protocol.query, run.protocol.database, run.dataset.labels
    return evaluate(
        packed[query], packed[database], labels[query], labels[database], ks=tuple(run.config.evaluate.ks)
    )


def _accuracy(run: Run, logits: np.ndarray) -> float | None:
    if run.config.teacher.objective != "cross_entropy":
        return None  # its logits were not trained
    query = run.protocol.query
    return float(np.mean(logits[query].argmax(axis=1) == run.dataset.labels[query]))


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-8)


def _sizes(run: Run) -> str:
    return " ".join(f"{name} {value}" for name, value in run.config.student.sizes.items())


def parameter_count(variables: Any) -> int:
    """Of all layers in 'params' but the regressor to a teacher's features, which only training uses."""
    layers = {name: layer for name, layer in variables["params"].items() if name != "regressor"}
    return sum(leaf.size for leaf in jax.tree.leaves(layers))


def frozen_multiply_adds(network: Teacher) -> int:
    """Of a picture's features, without the classifier that the weights come with."""
    backbone = dict(network.backbone)
    module = make_backbone(backbone["arch"], dtype=jnp.dtype(backbone["dtype"]), **backbone["sizes"])
    size = network.preprocessing.size
    picture = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), picture)
    return multiply_adds(lambda given, x: module.apply(given, x)["features"], variables, picture)


def _head_cost(run: Run, head: Head, features: dict[str, Cached]) -> int:
    seen = head.views if len(head.views) > 1 else ("original",)
    tokens = head_tokens(features, head.members, seen, np.arange(1))

    def codes(variables: Any, batch: Any) -> jax.Array:
        options = {"bits": run.config.bits, "classes": run.classes, "fusion": head.fusion}
        return fusion_outputs(variables, batch, **options)["codes"]

    return multiply_adds(codes, head.trained.variables, tokens)


def _encode_ms(run: Run, teacher: Teacher) -> float:
    return milliseconds_an_image(run, jax.jit(teacher.apply), teacher.variables)


def _student_ms(run: Run, student: Student) -> float:
    return milliseconds_an_image(run, jax.jit(student.method.encode), student.trained.variables)


def over_seeds(scores: list[dict[str, float]]) -> dict[str, Any]:
    """'metrics' and 'deviation' of the scores of one row, each seed's a dict, and those themselves; one seed deviates by nothing
    that could be told."""
    deviating = [key for key in scores[0] if len(scores) > 1]
    return {
        "metrics": {key: float(np.mean([score[key] for score in scores])) for key in scores[0]},
        "deviation": {key: float(np.std([score[key] for score in scores], ddof=1)) for key in deviating},
        "by_seed": scores,
    }


def evaluated_once(
    run: Run, depends: list[Any], score: Callable[[], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The rows that `score` gives, in process 0 alone, or gave in an earlier start on the same `depends`: in workdir/evaluate."""
    inputs = fingerprint(run.identity(), run.hardware(), run.config.evaluate, run.config.bits, *depends)
    folder = run.workdir / "evaluate"

    def work() -> dict[str, Any]:
        notes = finished(folder, inputs)
        if notes is not None:
            return notes
        begin(folder, inputs)
        start = time.perf_counter()
        rows = score()
        return finish(folder, inputs, {"rows": rows, "seconds": time.perf_counter() - start})

    stopping.check()
    notes = by_first(work)
    run.seconds["evaluate"] = notes["seconds"]
    return notes["rows"]


def milliseconds_an_image(run: Run, apply: Callable, variables: Any) -> float:
    """Milliseconds an image, pictures in host memory to outputs on this process's devices; the best of ten full batches."""
    run = on_own_devices(run)
    size = run.config.features.batch_size
    pictures = run.pictures(np.arange(size) % len(run.dataset))
    variables = replicate(variables, run.mesh)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        jax.block_until_ready(apply(variables, put_batch(pictures, run.mesh)))
        times.append(time.perf_counter() - start)
    return min(times[1:]) / size * 1000


def _attention_by_class(run: Run, head: Head, attention: np.ndarray) -> dict[str, Any]:
    """The mean weight of each teacher over the query pictures of each class."""
    query = run.protocol.query
    labels = run.dataset.labels[query]
    by_teacher = attention[query].reshape(len(query), len(head.views), len(head.members)).sum(axis=1)
    weights = [by_teacher[labels == label].mean(axis=0) for label in range(run.classes)]
    return {
        "teachers": list(head.members),
        "classes": list(run.dataset.class_names),
        "weights": np.stack(weights),
    }


def retrieved(run: Run, name: str, packed: np.ndarray) -> dict[str, Any]:
    """One query of each of the first classes (drawn by the seed, not picked), with its nearest codes."""
    query, database, labels = run.protocol.query, run.protocol.database, run.dataset.labels
    order = np.random.default_rng(run.config.seed).permutation(query)
    _, first = np.unique(labels[order], return_index=True)
    chosen = order[first[:GRID_QUERIES]]
    distances, places = search(packed[chosen], packed[database], GRID_RESULTS)
    found = database[places]
    images = run.dataset.images
    return {
        "row": name,
        "queries": images[chosen],
        "query_labels": labels[chosen],
        "results": images[found.ravel()].reshape(*found.shape, *images.image_shape),
        "result_labels": labels[found],
        "distances": np.asarray(distances),
    }


def _save(folder: Path, scores: Scores) -> None:
    """Arrays in one .npz under numbered keys, their places in scores.json."""
    leaves: list[np.ndarray] = []

    def shelve(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            leaves.append(value)
            return {"array": len(leaves) - 1}
        if isinstance(value, dict):
            return {"dict": {key: shelve(item) for key, item in value.items()}}
        if isinstance(value, list):
            return {"list": [shelve(item) for item in value]}
        return {"value": value}

    tree = shelve({"rows": scores.rows, "arrays": scores.arrays})
    np.savez(folder / "arrays.tmp.npz", *leaves)
    os.replace(folder / "arrays.tmp.npz", folder / "arrays.npz")
    (folder / "scores.tmp").write_text(json.dumps(tree))
    os.replace(folder / "scores.tmp", folder / "scores.json")


def _load(folder: Path) -> Scores:
    def fetch(node: dict[str, Any], arrays) -> Any:
        if "array" in node:
            return arrays[f"arr_{node['array']}"]
        if "dict" in node:
            return {key: fetch(item, arrays) for key, item in node["dict"].items()}
        if "list" in node:
            return [fetch(item, arrays) for item in node["list"]]
        return node["value"]

    with np.load(folder / "arrays.npz") as arrays:
        return Scores(**fetch(json.loads((folder / "scores.json").read_text()), arrays))

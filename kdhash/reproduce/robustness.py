"""Spoilt queries against a clean database: how far mAP@all falls for teachers and students of a finished DMTH run."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import kdhash
from kdhash.data.corruptions import CORRUPTIONS
from kdhash.experiment.context import Run, chunked
from kdhash.experiment.evaluate import student_label
from kdhash.experiment.online_teacher import head_on_pictures
from kdhash.experiment.run import Dmth, open_run, train_dmth
from kdhash.experiment.student import Student
from kdhash.experiment.teacher import Head, best_single, head_outputs
from kdhash.reproduce.condense import processor
from kdhash.reproduce.pooled import FUSED, PLAIN, Document, Value, pool, value_of
from kdhash.reproduce.tables import NOTHING
from kdhash.retrieval import mean_average_precision, pack_codes
from kdhash.training.mapping import make_encode

CLEAN = "clean"
BEST_SINGLE = "best single teacher"
Encode = Callable[[np.ndarray], np.ndarray]  # uint8 pictures [n, h, w, 3] -> real-valued codes [n, bits]


def measure(config: ConfigDict, workdir: Path, *, queries: int = 0) -> dict[str, Any]:
    """Scores of the fused teacher, of the best single one and of all students of the run in `workdir`: 'rows' with 'metrics'
    {'clean': mAP@all, 'jpeg 75': ..., ...}. `queries`: so many of the protocol's, in its order; 0 for all.
    """
    start = time.perf_counter()
    run = open_run(config, workdir)
    # what is trained already needs no views to validate with
    run.config.features.views = ("original", "flip")
    trained = train_dmth(run)
    query, everything = run.protocol.query[: queries or None], np.arange(len(run.dataset))
    groups: dict[str, str] = {}
    encoders: dict[str, Encode] = {}
    database: dict[str, np.ndarray] = {}
    for name, head in _heads(run, trained).items():
        groups[name] = "teacher"
        encoders[name] = _head_encoder(run, trained, head)
        database[name] = head_outputs(run, head, trained.features, "original", everything)["codes"]
    for student in trained.students.values():
        name = student_label(student)
        groups[name] = "student"
        encoders[name] = _student_encoder(run, student)
        database[name] = encoders[name](run.dataset.images[everything])
    packed = {name: pack_codes(codes) for name, codes in database.items()}
    metrics: dict[str, dict[str, list[float]]] = {name: {} for name in encoders}
    for spoilt, pictures in spoilt_queries(run.dataset.images[query], query, run.config.seed):
        for name, encode in encoders.items():
            score = _score(run, pack_codes(encode(pictures)), packed[name], query)
            metrics[name][spoilt] = [round(score, 6)]
            run.say(f"{spoilt} {name}: mAP@all {score:.4f}")
    single = best_single(trained.heads)
    return {
        "dataset": config.dataset,
        "protocol": {"name": run.protocol.name, "checksum": run.protocol.checksum, "query": len(query)},
        "bits": config.bits,
        "seeds": [config.seed],
        "kdhash": kdhash.__version__,
        "machine": {
            "processor": processor(),
            "device": run.mesh.devices.flat[0].device_kind,
            "jax": jax.__version__,
        },
        "seconds": {"robustness": round(time.perf_counter() - start, 1)},
        "best_single": single.name if single else None,
        "rows": [
            {"group": groups[name], "name": name, "seeds": [config.seed], "metrics": found}
            for name, found in metrics.items()
        ],
    }


def check_finished(workdir: Path) -> None:
    """Raises FileNotFoundError for a workdir without a report: `measure` would train what is missing."""
    if not (workdir / "report" / "results.json").exists():
        raise FileNotFoundError(
            f"{workdir} holds no finished run (files in results/ may tell of one made elsewhere): make it with "
            f"python -m kdhash.reproduce {workdir.parent.name} --only {workdir.name} "
            f"--workdir {workdir.parents[1]} --results runs/results"
        )


def spoilt_queries(pictures: np.ndarray, rows: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """('clean', pictures), then ('jpeg 75', the same spoilt), ..., in the order of CORRUPTIONS."""
    yield CLEAN, pictures
    for name, (spoil, strengths, _) in CORRUPTIONS.items():
        for strength in strengths:
            if name == "occlusion" and strength > min(pictures.shape[1:3]):
                continue
            yield f"{name} {strength:g}", spoil(pictures, rows, seed, strength)


def _heads(run: Run, trained: Dmth) -> dict[str, Head]:
    single = best_single(trained.heads)
    fused = run.config.student.teacher
    return {fused: trained.heads[fused]} | ({BEST_SINGLE: single} if single else {})


def _head_encoder(run: Run, trained: Dmth, head: Head) -> Encode:
    outputs = jax.jit(head_on_pictures(run, trained.teachers, head, trained.features))
    networks = {name: trained.teachers[name].variables for name in head.members}

    def encode(pictures: np.ndarray) -> np.ndarray:
        return chunked(
            lambda part: outputs(networks, _floats(pictures[part]))["codes"],
            np.arange(len(pictures)),
            run.config.features.batch_size,
        )

    return encode


def _student_encoder(run: Run, student: Student) -> Encode:
    encode = make_encode(student.method, run.mesh, run.config.features.batch_size)
    variables = student.trained.variables
    return lambda pictures: encode(variables, lambda rows: _floats(pictures[rows]), np.arange(len(pictures)))


def _floats(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.float32) / 255


def _score(run: Run, query_codes: np.ndarray, codes: np.ndarray, query: np.ndarray) -> float:
    labels, database = run.dataset.labels, run.protocol.database
    return mean_average_precision(query_codes, codes[database], labels[query], labels[database])


def table(documents: Sequence[Document]) -> str:
    """mAP@all of each row on clean queries, and what spoilt ones lose, in points."""
    if not documents:
        return NOTHING
    rows = pool(documents)
    seeds = len(documents)
    names = list(rows)
    lines = [f"| queries ({seeds}) | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for spoilt in rows[names[0]].metrics:
        cells = []
        for row in rows.values():
            values = row.metrics[spoilt]
            if spoilt == CLEAN:
                cells.append(_cell(value_of(values), "{:.4f}"))
            else:
                lost = [100 * (a - b) for a, b in zip(values, row.metrics[CLEAN], strict=True)]
                cells.append(_cell(value_of(lost), "{:+.1f}"))
        lines.append(f"| {spoilt} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kept(documents: Sequence[Document]) -> str:
    """The share of clean mAP@all that each row keeps, and by how many points the taught student is ahead of the plain one."""
    rows = pool(documents)
    if not rows or not {PLAIN, FUSED} <= rows.keys():
        return NOTHING
    lines = ["| queries | " + " | ".join(rows) + " | lead of the taught student |"]
    lines.append("|---|" + "---:|" * (len(rows) + 1))
    for spoilt in rows[PLAIN].metrics:
        cells = [
            f"{100 * np.mean(np.divide(row.metrics[spoilt], row.metrics[CLEAN])):.0f} %"
            for row in rows.values()
        ]
        lead = 100 * np.subtract(rows[FUSED].metrics[spoilt], rows[PLAIN].metrics[spoilt])
        lines.append(f"| {spoilt} | " + " | ".join([*cells, _cell(value_of(list(lead)), "{:+.1f}")]) + " |")
    return "\n".join(lines)


def _cell(value: Value, form: str) -> str:
    spread = form.replace("+", "").format(value.deviation)
    return form.format(value.mean) + (f" ± {spread}" if value.seeds > 1 else "")

"""A KDCMH run: the order of its stages, what the paper claims, and the report."""

import time
from pathlib import Path
from typing import Any

from kdhash.experiment.context import Run, seeded
from kdhash.experiment.kdcmh import PairHashed, fit_similarity, train_pair_student, train_pair_teacher
from kdhash.experiment.kdcmh_scores import score_pairs, shown
from kdhash.experiment.pair_inputs import PairInputs, open_pair_inputs
from kdhash.experiment.train_row import curves_of
from kdhash.experiment.workdir import begin, fingerprint, finish, finished
from kdhash.report import table_text, write_report

BASELINES = ("djsrh", "jdsh", "dsah", "ucch")


def run_kdcmh(this: Run, command: str) -> Path:
    """The fused similarity; for every seed of config.seeds a teacher and the students of config.student.rows; one report."""
    config = this.config
    inputs = {name: open_pair_inputs(this, name) for name in ("teacher", "student")}
    similarity = fit_similarity(this, inputs["teacher"])
    hashers: dict[str, list[PairHashed]] = {}
    for seed in config.seeds:
        run = seeded(this, seed)
        teacher = train_pair_teacher(run, similarity, inputs["teacher"])
        hashers.setdefault("teacher", []).append(teacher)
        for name in config.student.rows:
            student = train_pair_student(run, name, similarity, teacher, inputs["student"])
            hashers.setdefault(name, []).append(student)
    this.seconds["train"] = sum(one.trained.seconds for each in hashers.values() for one in each)
    rows = _scored(this, hashers, inputs)
    results = this.facts(f"KDCMH on {config.dataset}, {config.bits} bits", command) | {
        "seeds": list(config.seeds),
        "rows": rows,
        "claims": claims(rows),
    }
    first = this.workdir / f"seed{config.seeds[0]}"
    arrays: dict[str, Any] = {
        "training": {name: curves_of(first / name) for name in ("teacher", *config.student.rows)}
    }
    best = max(config.student.rows, key=lambda name: hashers[name][0].trained.validation)
    if this.dataset.texts is not None and this.dataset.images is not None:
        arrays["pairs"] = shown(this, hashers[best][0]) | {"row": best}
    path = write_report(results, arrays, this.workdir / "report")
    this.say(table_text(results))
    this.say(f"report: {path}")
    return path


def _scored(
    this: Run, hashers: dict[str, list[PairHashed]], inputs: dict[str, PairInputs]
) -> list[dict[str, Any]]:
    """The stage `evaluate`, in workdir/evaluate."""
    trained = {name: [(one.identity, one.trained.seconds) for one in each] for name, each in hashers.items()}
    depends = fingerprint(this.identity(), this.config.evaluate, this.config.bits, trained)
    folder = this.workdir / "evaluate"
    notes = finished(folder, depends)
    if notes is None:
        begin(folder, depends)
        start = time.perf_counter()
        rows = score_pairs(this, hashers, inputs)
        notes = finish(folder, depends, {"rows": rows, "seconds": time.perf_counter() - start})
    this.seconds["evaluate"] = notes["seconds"]
    return notes["rows"]


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's claims as this run measured them, on the mean of both directions' mAP@50 and mAP@all; a difference holds
    where it exceeds the seeds' deviation of both rows."""
    scores = {row["name"]: row for row in rows}
    found = []
    for k in ("50", "all"):
        keys = [f"{direction} map@{k}" for direction in ("i2t", "t2i")]
        if any(key not in row["metrics"] for row in rows for key in keys):
            continue

        def mean(name: str, part: str = "metrics", keys=keys) -> float:
            return sum(scores[name].get(part, {}).get(key, 0.0) for key in keys) / 2

        def compare(text: str, one: str, other: str, mean=mean, k=k) -> list[dict[str, Any]]:
            if one not in scores or other not in scores:
                return []
            gain, spread = mean(one) - mean(other), max(mean(name, "deviation") for name in (one, other))
            measured = (
                f"{one} {mean(one):.4f}, {other} {mean(other):.4f}: {100 * gain:+.2f} points (deviation over seeds "
                f"{100 * spread:.2f})"
            )
            return [{"claim": f"{text}, mAP@{k}", "measured": measured, "holds": bool(gain > spread)}]

        found += compare(
            "A student learns more from the teacher's codes than from the features", "kdcmh", "direct"
        )
        others = [name for name in BASELINES if name in scores]
        if others:
            best = max(others, key=mean)
            found += compare("KDCMH is better than the best other unsupervised method", "kdcmh", best)
        found += compare("The student reaches its teacher", "kdcmh", "teacher")
    return found

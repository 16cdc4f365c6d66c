"""One run, from a config to a report: the only place that knows the order of the stages."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import kdhash
from kdhash.beside import place_of
from kdhash.config import ConfigError, check_config
from kdhash.data import Protocol, load_pairs, make_pair_protocol, make_protocol
from kdhash.data.decoded import FOLDER, load_decoded
from kdhash.experiment.brcd_run import run_brcd
from kdhash.experiment.check_hashers import check_hashers
from kdhash.experiment.check_pairs import check_pairs
from kdhash.experiment.context import Run
from kdhash.experiment.evaluate import evaluate_rows, student_label
from kdhash.experiment.kdcmh_run import run_kdcmh
from kdhash.experiment.pretrain import pretrain_teachers
from kdhash.experiment.student import Student, check_student, train_students
from kdhash.experiment.teacher import (
    Cached,
    Head,
    best_single,
    cache_features,
    load_teachers,
    train_heads,
)
from kdhash.experiment.train_row import curves_of
from kdhash.experiment.workdir import claim, computed, fingerprint, keep_protocol
from kdhash.processes import agree, by_first, check_shared, first, together
from kdhash.report import table_text, write_report
from kdhash.teachers.registry import Teacher
from kdhash.training.mapping import data_mesh


def run(config: ConfigDict, workdir: str | Path, *, command: str = "") -> Path:
    """Runs the stages that are not finished yet and returns the path of the report.

    Raises ConfigError before any work for a config that cannot be run, and for a workdir of another config or of data that have
    changed since.
    """
    this = open_run(config, workdir)
    return {"dmth": _dmth, "brcd": run_brcd, "kdcmh": run_kdcmh}[config.method](this, command)


def open_run(config: ConfigDict, workdir: str | Path) -> Run:
    """The run of a workdir, new or begun before; raises ConfigError as `run` does."""
    mesh, workdir = data_mesh(), Path(workdir)
    start = time.perf_counter()
    dataset, protocol = together(lambda: _checked_data(config, workdir, mesh.devices.size))
    agree({"version": kdhash.__version__, "config": fingerprint(computed(config))[:12]})
    agree({"data set": dataset.fingerprint[:12], "split": protocol.checksum[:12]})
    by_first(lambda: _claim(workdir, config, protocol))
    check_shared(workdir)
    this = Run(config, workdir, mesh, dataset, protocol)
    this.seconds["data"] = time.perf_counter() - start
    return this


def _checked_data(config: ConfigDict, workdir: Path, devices: int) -> tuple[Any, Protocol]:
    check_config(config, devices=devices)
    dataset, protocol = _data(config, workdir)
    if config.method == "dmth":
        check_student(config, dataset)
    if config.method == "brcd":
        check_hashers(config, protocol)
    if config.method == "kdcmh":
        check_pairs(config, dataset, protocol)
    return dataset, protocol


def _claim(workdir: Path, config: ConfigDict, protocol: Protocol) -> None:
    """After all that can refuse a config."""
    claim(workdir, config)
    keep_protocol(workdir, protocol)


def _data(config: ConfigDict, workdir: Path) -> tuple[Any, Protocol]:
    if config.method == "kdcmh":
        pairs = load_pairs(config.dataset, config.data_dir, image_size=config.image_size)
        options = {"seed": config.protocol_seed, "train": config.train, "validation": config.validation}
        try:
            return pairs, make_pair_protocol(config.protocol, pairs, **options)
        except ValueError as error:
            fields = "config.protocol, config.train and config.validation"
            raise ConfigError(f"{fields} do not suit {config.dataset!r}: {error}") from error
    folder = place_of(config.get("data_cache_dir", ""), workdir, FOLDER)
    dataset = load_decoded(
        config.dataset, config.data_dir, folder, image_size=config.image_size, write=first()
    )
    protocol = make_protocol(
        config.protocol, dataset, seed=config.protocol_seed, validation_per_class=config.validation_per_class
    )
    return dataset, protocol


class Dmth(NamedTuple):
    """All that a DMTH run trains or reads, by name."""

    teachers: dict[str, Teacher]
    features: dict[str, Cached]
    heads: dict[str, Head]
    students: dict[str, Student]


def train_dmth(this: Run) -> Dmth:
    """The stages of a DMTH run before its evaluation; what is finished is read from the workdir."""
    if "pretrain" in this.config:
        pretrain_teachers(this)
    teachers = load_teachers(this)
    features = cache_features(this, teachers)
    heads = train_heads(this, teachers, features)
    return Dmth(teachers, features, heads, train_students(this, heads, features))


def _dmth(this: Run, command: str) -> Path:
    config = this.config
    teachers, features, heads, students = train_dmth(this)
    scores = evaluate_rows(this, teachers, features, heads, students)

    def report() -> str:
        results = this.facts(f"DMTH on {config.dataset}, {config.bits} bits", command) | {
            "class_names": list(this.dataset.class_names),
            "rows": scores.rows,
            "claims": _claims(this, scores.rows, heads),
        }
        path = write_report(
            results, scores.arrays | {"training": _curves(this, students)}, this.workdir / "report"
        )
        this.say(table_text(results))
        this.say(f"report: {path}")
        return str(path)

    return Path(by_first(report))


def _claims(this: Run, rows: list[dict[str, Any]], heads: dict[str, Head]) -> list[dict[str, Any]]:
    """The paper's claims, and what they rest on, as this run measured them (mAP@all on the protocol's queries)."""
    score = {row["name"]: row["metrics"]["map@all"] for row in rows}
    cost = {row["name"]: row for row in rows}
    taught_by = this.config.student.teacher
    claims = []
    best = best_single(heads)  # by validation: the one that teaches
    alone = [row["name"] for row in rows if row.get("networks") == 1 and row.get("views") == 1]
    alone = alone or ([best.name] if best is not None else [])
    if taught_by in score and alone:
        rival = max(alone, key=lambda name: score[name])
        gain = score[taught_by] - score[rival]
        claims.append(
            {
                "claim": "The fused teacher is more than 2 points above the best single teacher (the best on these queries)",
                "measured": f"{taught_by} {score[taught_by]:.4f}, {rival} {score[rival]:.4f}: {gain * 100:+.2f} points",
                "holds": bool(gain > 0.02),
            }
        )
    if taught_by in score and "mean" in score and taught_by != "mean":
        gain = score[taught_by] - score["mean"]
        claims.append(
            {
                "claim": f"Fusion by {taught_by} is better than by the mean",
                "measured": f"{taught_by} {score[taught_by]:.4f}, mean {score['mean']:.4f}: {gain * 100:+.2f} points",
                "holds": bool(gain > 0),
            }
        )
    plain, taught = "student, no transfer", f"student, taught by {taught_by}"
    if plain in score and taught in score:
        gain = score[taught] - score[plain]
        claims.append(
            {
                "claim": "Transfer improves the student by more than 4 points",
                "measured": f"{score[plain]:.4f} without, {score[taught]:.4f} with: {gain * 100:+.2f} points",
                "holds": bool(gain > 0.04),
            }
        )
        if best is not None and f"student, taught by {best.name}" in score:
            by_single = score[f"student, taught by {best.name}"]
            gain = score[taught] - by_single
            claims.append(
                {
                    "claim": "The fused teacher teaches the student better than the best single one",
                    "measured": f"{score[taught]:.4f}, {by_single:.4f} by {best.name}: {gain * 100:+.2f} points",
                    "holds": bool(gain > 0),
                }
            )
        same = all(cost[plain][name] == cost[taught][name] for name in ("parameters", "multiply_adds"))
        claims.append(
            {
                "claim": "Transfer costs nothing when encoding (the network is the same)",
                "measured": f"{cost[plain]['encode_ms']:.3f} ms an image without, {cost[taught]['encode_ms']:.3f} ms with; "
                + ("the same" if same else "other")
                + " parameters and multiply-adds",
                "holds": same,
            }
        )
    return claims


def _curves(this: Run, students: dict[str, Student]) -> dict[str, dict[str, list[float]]]:
    return {
        student_label(student): curves_of(this.workdir / "student" / name)
        for name, student in students.items()
    }

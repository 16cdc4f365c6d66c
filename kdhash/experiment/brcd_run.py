"""A BRCD run: the order of its stages, what the paper claims, and the report."""

from pathlib import Path
from typing import Any

from kdhash.experiment.brcd import Hashed, Taught, cluster_masks, teach, train_student, train_teacher
from kdhash.experiment.brcd_scores import mask_study, score_features, score_hashers
from kdhash.experiment.context import Run, seeded
from kdhash.experiment.evaluate import evaluated_once, retrieved
from kdhash.experiment.hasher_inputs import Inputs, open_inputs
from kdhash.experiment.train_row import curves_of
from kdhash.processes import by_first
from kdhash.report import table_text, write_report

METRIC = "map@1000"


def run_brcd(this: Run, command: str) -> Path:
    """Every seed of config.seeds: a teacher, its clusters, the students of config.student.rows; then one report of all."""
    config = this.config
    inputs = {name: open_inputs(this, name) for name in ("teacher", "student")}
    hashers: dict[str, list[Hashed]] = {}
    taughts: list[Taught] = []
    for seed in config.seeds:
        run = seeded(this, seed)
        teacher = train_teacher(run, inputs["teacher"])
        taught = teach(run, teacher, inputs["teacher"])
        taughts.append(taught)
        trained = {"teacher": teacher}
        for name in config.student.rows:
            trained[name] = train_student(run, name, config.student.forms[name], taught, inputs["student"])
        for name, hashed in trained.items():
            hashers.setdefault(name, []).append(hashed)
    run, first = seeded(this, config.seeds[0]), taughts[0]
    study = _margin_study(run, first, inputs["student"]) if config.student.margins else {}
    this.seconds["train"] = sum(one.trained.seconds for each in hashers.values() for one in each)
    depends = {name: [(one.inputs, one.trained.seconds) for one in each] for name, each in hashers.items()}
    rows = evaluated_once(
        this,
        [run.config.seed, depends],
        lambda: score_hashers(this, hashers, inputs) + score_features(run, inputs),
    )

    def report() -> str:
        results = this.facts(f"BRCD on {config.dataset}, {config.bits} bits", command) | {
            "seeds": list(config.seeds),
            "class_names": list(this.dataset.class_names),
            "rows": rows,
            "claims": claims(rows),
            "clusters": {"count": len(first.clusters.centers), "choice": first.choice},
            "margins": study | {"seed": run.config.seed} if study else {},
        }
        arrays = {
            "clusters": first.choice,
            "masks": mask_study(first) | study,
            "training": {
                name: curves_of(this.workdir / f"seed{run.config.seed}" / name)
                for name in ("teacher", *config.student.rows)
            },
            "retrieval_grid": [
                retrieved(run, name, hashers[name][0].packed) for name in ("none", "brcd") if name in hashers
            ],
        }
        path = write_report(results, arrays, this.workdir / "report")
        this.say(table_text(results))
        this.say(f"report: {path}")
        return str(path)

    return Path(by_first(report))


def _margin_study(run: Run, taught: Taught, inputs: Inputs) -> dict[str, list[float]]:
    """What the margin of the masks does to validation scores of the first seed's student 'brcd', and the share of bits kept, mean
    of the clusters."""
    kept, scores = [], []
    for margin in run.config.student.margins:
        form = run.config.student.forms.brcd.copy_and_resolve_references()
        form.margin = margin
        student = train_student(run, f"brcd_margin_{margin}", form, taught, inputs)
        scores.append(student.trained.validation)
        masks = cluster_masks(taught, "intended", margin)
        assert masks is not None
        kept.append(float(masks.mean()))
    return {
        "study_margins": list(run.config.student.margins),
        "study_kept": kept,
        "study_validation": scores,
    }


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paper's claims as this run measured them; a difference holds where it exceeds the seeds' deviation of both rows."""
    scores = {row["name"]: row for row in rows}

    def compare(text: str, one: str, other: str, metric: str) -> list[dict[str, Any]]:
        if one not in scores or other not in scores:
            return []
        a, b = (scores[name]["metrics"][metric] for name in (one, other))
        spread = max(scores[name]["deviation"].get(metric, 0.0) for name in (one, other))
        measured = f"{one} {a:.4f}, {other} {b:.4f}: {100 * (a - b):+.2f} points (deviation over seeds {100 * spread:.2f})"
        return [{"claim": text, "measured": measured, "holds": bool(a - b > spread)}]

    others = [name for name in ("feature", "kl", "rkd", "sp", "pkt", "crd") if name in scores]
    found = []
    for kind, metric in (("symmetric", METRIC), ("asymmetric", f"asymmetric {METRIC}")):
        found += compare(f"Distillation improves the student, {kind} search", "brcd", "none", metric)
        if others:
            best = max(others, key=lambda name: scores[name]["metrics"][metric])
            found += compare(
                f"BRCD is better than the best other way to distil, {kind} search", "brcd", best, metric
            )
        for other, text in (
            ("brcd_no_mask", "Bit masks help"),
            (
                "brcd_published",
                "The corrected program is better than the published one, whose masks are all zeros",
            ),
            ("brcd_no_removal", "Leaving out false negatives helps"),
        ):
            found += compare(f"{text}, {kind} search", "brcd", other, metric)
    return found

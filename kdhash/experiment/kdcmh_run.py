"""A KDCMH run: the order of its stages, what the paper claims, and the report."""

from pathlib import Path
from typing import Any

import numpy as np

from kdhash.experiment.context import Run, seeded
from kdhash.experiment.evaluate import evaluated_once
from kdhash.experiment.kdcmh import PairHashed, fit_similarity, train_pair_student, train_pair_teacher
from kdhash.experiment.kdcmh_scores import score_pairs, shown
from kdhash.experiment.pair_inputs import open_pair_inputs
from kdhash.experiment.train_row import curves_of
from kdhash.processes import by_first
from kdhash.report import table_text, write_report


def run_kdcmh(this: Run, command: str) -> Path:
    """The fused similarity; for every seed of config.seeds a teacher and the students of config.student.rows; one report."""
    config = this.config
    inputs = {name: open_pair_inputs(this, name) for name in ("teacher", "student")}
    similarity = fit_similarity(this, inputs["teacher"], tuple(config.similarity.weights))
    hashers: dict[str, list[PairHashed]] = {}
    for seed in config.seeds:
        run = seeded(this, seed)
        teacher = train_pair_teacher(run, similarity, inputs["teacher"])
        hashers.setdefault("teacher", []).append(teacher)
        for name in config.student.rows:
            student = train_pair_student(run, name, similarity, teacher, inputs["student"])
            hashers.setdefault(name, []).append(student)
    this.seconds["train"] = sum(one.trained.seconds for each in hashers.values() for one in each)
    depends = [
        {name: [(one.identity, one.trained.seconds) for one in each] for name, each in hashers.items()}
    ]
    rows = evaluated_once(this, depends, lambda: score_pairs(this, hashers, inputs))

    def report() -> str:
        results = this.facts(f"KDCMH on {config.dataset}, {config.bits} bits", command) | {
            "seeds": list(config.seeds),
            "rows": rows,
            "claims": claims(rows, {name: config.student.forms[name].kind for name in config.student.rows}),
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
        return str(path)

    return Path(by_first(report))


def claims(rows: list[dict[str, Any]], kinds: dict[str, str]) -> list[dict[str, Any]]:
    """The paper's claims as this run measured them, `kinds` being those of the student rows: on the mean of both directions'
    mAP@50 and mAP@all, without labels recall@10. Of several students of one teacher's codes the one with the best validation
    speaks for KDCMH; of its rivals the best on the queries, which is in their favour. A difference holds where it exceeds the
    seeds' deviation of both rows."""
    scores = {row["name"]: row for row in rows}
    distilled = [name for name, kind in kinds.items() if kind == "kdcmh"]
    direct = [name for name, kind in kinds.items() if kind == "fused"]
    others = [row["name"] for row in rows if row["name"] not in ("teacher", *distilled, *direct)]
    keys = [key for key in ("map@50", "map@all") if f"i2t {key}" in rows[0]["metrics"]] or ["recall@10"]
    found = []
    for key in keys:
        ways = [f"{direction} {key}" for direction in ("i2t", "t2i")]

        def means(name: str, ways=ways) -> list[float]:
            row = scores[name]
            return [sum(one[way] for way in ways) / 2 for one in row.get("by_seed", [row["metrics"]])]

        def compare(text: str, names: list[str], rivals: list[str], means=means, key=key) -> None:
            if not names or not rivals:
                return
            one = max(names, key=lambda name: scores[name]["metrics"]["validation"])
            other = max(rivals, key=lambda name: np.mean(means(name)))
            gain = np.mean(means(one)) - np.mean(means(other))
            spread = max(
                np.std(means(name), ddof=1) if len(means(name)) > 1 else 0.0 for name in (one, other)
            )
            seeds = len(means(one))
            doubt = f"deviation over seeds {100 * spread:.2f}" if seeds > 1 else "one seed"
            measured = f"{one} {np.mean(means(one)):.4f}, {other} {np.mean(means(other)):.4f}: {100 * gain:+.2f} points ({doubt})"
            found.append(
                {
                    "claim": f"{text}, {key.replace('map', 'mAP')}",
                    "measured": measured,
                    "holds": bool(gain > spread),
                }
            )

        compare("A student learns more from the teacher's codes than from the features", distilled, direct)
        compare("KDCMH's student is better than the best other unsupervised method", distilled, others)
    return found

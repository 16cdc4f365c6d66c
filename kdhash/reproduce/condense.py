"""A run's report, condensed to the small JSON that the repository keeps and docs/results.md is made of."""

import json
import math
import os
import platform
import re
from pathlib import Path
from typing import Any

import kdhash
from kdhash.reproduce.plan import Planned, command

# What is kept of a row's metrics: of the many ways to count ties and cut-offs, those that tables show.
KEPT = re.compile(
    r"(asymmetric |i2t |t2i )?(map@(all|\d+)(_stable)?|precision@100|precision_radius2|recall@(1|5|10)|validation)"
)
DIGITS = 6


def condense(results: dict[str, Any], table: str, run: Planned, beside: int) -> dict[str, Any]:
    """What is kept of a report's results.json; no date, so that the same numbers give the same file.

    'rows': each with 'metrics', {name: [a value a seed of 'seeds']}. `beside` is how many runs shared the machine: seconds and
    'encode_ms' are slower by them.
    """
    seeds = list(results.get("seeds", [results["seed"]]))
    machine = results["machine"]
    return {
        "table": table,
        "run": run.name,
        "group": run.group,
        "command": command(table, run),
        "method": results["method"],
        "dataset": results["dataset"],
        "labels_note": results.get("labels_note", ""),
        "protocol": results["protocol"],
        "bits": results["bits"],
        "seeds": seeds,
        "kdhash": kdhash.__version__,
        "machine": {
            "processor": processor(),
            "device": machine["device"],
            "device_count": machine["device_count"],
            "jax": machine["jax"],
            "python": machine["python"],
            "runs_beside": beside - 1,
        },
        "seconds": {stage: round(spent, 1) for stage, spent in results["seconds"].items()},
        "clusters": results.get("clusters", {}).get("count"),
        "margins": results.get("margins", {}),
        "rows": [_row(row, seeds) for row in results["rows"]],
    }


def _row(row: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    scores = row.get("by_seed", [row["metrics"]])
    if "validation" in row:  # of a DMTH row: on its own pictures, so that only rows of a kind can be compared
        scores = [{**score, "validation": row["validation"]} for score in scores]
    names = [name for name in scores[0] if KEPT.fullmatch(name)]
    kept = {
        "group": row["group"],
        "name": row["name"],
        "seeds": row.get("seeds", seeds[:1]),
        "metrics": {name: [_number(score[name]) for score in scores] for name in sorted(names)},
    }
    facts = {name: row.get(name) for name in ("parameters", "multiply_adds", "networks", "views")}
    facts |= {name: _number(row.get(name)) for name in ("encode_ms", "seconds")}
    return kept | {name: value for name, value in facts.items() if value is not None}


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), DIGITS)


def processor() -> str:
    """The name of this machine's processor and how many cores it lends."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # no Linux
    return f"{name}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def write(path: Path, document: dict[str, Any]) -> None:
    """By a temporary name, then renamed. One line a row, so that a change of one number changes one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, value in document.items():
        text = json.dumps(value, sort_keys=True, allow_nan=False)
        if name == "rows":
            text = "[\n  " + ",\n  ".join(json.dumps(row, allow_nan=False) for row in value) + "\n ]"
        parts.append(f" {json.dumps(name)}: {text}")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    os.replace(temporary, path)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, or a report's results.json. Raises ValueError naming a damaged file."""
    return read_json(path, {"command", "rows"}, "run its table again")


def read_json(path: Path, needed: set[str], remedy: str) -> dict[str, Any]:
    """A file with the keys `needed`. Raises ValueError that names a damaged one and says what to do."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not needed <= found.keys():
            raise ValueError(f"no {' and '.join(sorted(needed))} in it")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and {remedy}") from None
    return found

"""What a run's workdir tells: its config, its trained rows, and what it measured of one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kdhash

CONFIG_FILE, DONE_FILE, WEIGHTS = "config.json", "done.json", "model.safetensors"
DEFAULT_ROWS = {"dmth": "fused", "brcd": "brcd", "kdcmh": "kdcmh"}
TEACHER = "teacher"
VALIDATED_BY = {
    "dmth": "mAP@all among validation pictures",
    "brcd": "mAP@1000 of validation queries",
    "kdcmh": "mean of both directions, mAP@50 (without labels recall@10) of validation pairs",
}


class Row(NamedTuple):
    """A trained row of a finished run."""

    run: Path
    config: dict[str, Any]  # nested, as the config file has it
    name: str
    seed: int
    weights: Path
    facts: dict[str, Any]  # for the model card


def find_row(run: str | Path, row: str | None = None, seed: int | None = None) -> Row:
    """The row `row` of the run in `run`, by default the student that the run is about, of its first seed.

    Raises FileNotFoundError for a folder that is no workdir, ValueError listing what there is for a row or seed that is not
    there or not finished.
    """
    run = Path(run)
    config = read_config(run)
    method = config["method"]
    if method not in DEFAULT_ROWS:
        raise ValueError(f"{run}: config.method is {method!r}; known are {', '.join(DEFAULT_ROWS)}")
    seeds = [config["seed"]] if method == "dmth" else list(config["seeds"])
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise ValueError(f"{run} has no seed {seed}; there are {', '.join(map(str, seeds))}")
    folder = run / ("student" if method == "dmth" else f"seed{seed}")
    there = sorted(
        path.parent.name for path in folder.glob(f"*/{DONE_FILE}") if (path.parent / WEIGHTS).is_file()
    )
    name = DEFAULT_ROWS[method] if row is None else row
    if name not in there:
        teachers = " (teachers of a DMTH run are several networks; its students can be exported)"
        raise ValueError(
            f"{folder} has no finished row {name!r}; there are: {', '.join(there) or 'none yet'}"
            + (teachers if method == "dmth" else "")
        )
    notes = json.loads((folder / name / DONE_FILE).read_text())["notes"]
    return Row(run, config, name, seed, folder / name / WEIGHTS, _facts(run, config, name, seed, notes))


def read_config(run: Path) -> dict[str, Any]:
    """The config of a workdir, nested as in the config file; without places (data_dir, weights_dir), which are not kept."""
    path = run / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} is no workdir of a run: it has no {CONFIG_FILE}; `python -m kdhash.main` makes one"
        )
    config: dict[str, Any] = {}
    for dotted, value in json.loads(path.read_text()).items():
        *parts, last = dotted.split(".")
        place = config
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return config


def _facts(
    run: Path, config: dict[str, Any], name: str, seed: int, notes: Mapping[str, Any]
) -> dict[str, Any]:
    protocol = json.loads((run / "protocol.json").read_text())
    path = run / "report" / "results.json"  # not there before the run is through
    results = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    return {
        "method": config["method"],
        "row": name,
        "seed": seed,
        "dataset": config["dataset"],
        "protocol": {key: protocol[key] for key in ("name", "seed", "checksum", "sizes")},
        "validation": {"score": notes["validation"], "what": VALIDATED_BY[config["method"]]},
        "metrics": _metrics(results["rows"], config, name, seed),
        "labels_note": results.get("labels_note", ""),
        "kdhash": kdhash.__version__,
    }


def _metrics(rows: list[dict[str, Any]], config: dict[str, Any], name: str, seed: int) -> dict[str, float]:
    """What the report says of the row, of that seed; {} where it left it out."""
    label = _label(config, name, rows) if config["method"] == "dmth" else name
    found = next((row for row in rows if row["name"] == label and row["group"] in ("student", TEACHER)), None)
    if found is None:
        return {}
    return found["by_seed"][found["seeds"].index(seed)] if "by_seed" in found else found["metrics"]


def _label(config: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> str | None:
    """What the report calls a student of a DMTH run."""
    fused = f"student, taught by {config['student']['teacher']}"
    if name != "best_single":
        return {"plain": "student, no transfer", "fused": fused}.get(name)
    others = (row["name"] for row in rows if row["name"].startswith("student, taught by "))
    return next((other for other in others if other != fused), None)

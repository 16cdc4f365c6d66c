"""Reports of runs that never were."""

from kdhash.reproduce.condense import condense
from kdhash.reproduce.plan import planned

PROTOCOL = {"name": "cifar10-2", "seed": 0, "checksum": "ab" * 32}
PROTOCOL |= {"query": 10, "database": 90, "train": 80, "validation": 10}


def row(group, name, score, **more):
    metrics = {"map@all": score, "map@1000": score, "map@1000_min": 0.1, "map@all_stable": score}
    metrics |= {"precision_radius2": 0.5, "ndcg@all": 0.5}
    return {"group": group, "name": name, "metrics": metrics, "note": "", "accuracy": None, **more}


def dmth_report(seed=0, fused=0.95, student=0.85):
    """results.json of a DMTH run with two teachers."""
    one = {"networks": 1, "encode_ms": 0.1, "parameters": 10, "multiply_adds": 1_000_000, "seconds": 1.0}
    rows = [
        row("teacher", "small", 0.90, validation=0.80, views=1, **one),
        row("teacher", "large", 0.91 + 0.001 * seed, validation=0.79, views=1, **one),
        row("teacher", "small_mirrored", 0.93, validation=0.9, views=2, **one),
        row("fusion", "mean_mirrored", 0.94, validation=0.9, **one | {"networks": 2, "views": 2}),
        row(
            "fusion",
            "attention",
            fused,
            validation=0.9,
            **one | {"networks": 2, "views": 2, "encode_ms": 0.4, "multiply_adds": 4_000_000},
        ),
        row("student", "student, no transfer", 0.80, encode_ms=0.1, parameters=5, multiply_adds=200_000),
        row(
            "student",
            "student, taught by attention",
            student,
            encode_ms=0.1,
            parameters=5,
            multiply_adds=200_000,
            validation=float("nan"),
        ),
    ]
    return {
        "title": "made up",
        "method": "dmth",
        "dataset": "cifar10",
        "protocol": PROTOCOL,
        "bits": 64,
        "seed": seed,
        "command": "what was typed on /some/machine",
        "machine": {"platform": "p", "device": "cpu", "device_count": 1, "jax": "0", "python": "3"},
        "seconds": {"teacher": 1.23456},
        "rows": rows,
        "claims": [],
    }


def run_named(table, name):
    return next(run for run in planned(table) if run.name == name)


def document(table="dmth-resnets", name="cifar10-2-64bits-seed0", **more):
    run = run_named(table, name)
    return condense(dmth_report(run.seed or 0, **more), table, run, beside=1)

"""The tables of docs/performance.md, of the files that `benchmarks/suite.py` wrote to results/performance/DEVICE/JOB.json."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdhash.reproduce import condense
from kdhash.reproduce.pooled import Document
from kdhash.reproduce.tables import NOTHING, cell

FOLDER, CPU = "performance", "cpu"
# Columns of each benchmark, in order, with their headings; those that no row has are left out.
COLUMNS: dict[str, dict[str, str]] = {
    "training": {
        "devices": "devices",
        "network": "network",
        "loss": "loss",
        "dtype": "dtype",
        "pictures": "pictures a step",
        "kdhash_ms": "kdhash ms",
        "eager_ms": "PyTorch ms",
        "compile_ms": "torch.compile ms",
        "reduce_ms": "CUDA graphs ms",
        "ratio_eager": "PyTorch / kdhash",
        "ratio_compile": "torch.compile / kdhash",
        "ratio_reduce": "CUDA graphs / kdhash",
        "cpu_ratio_eager": "processor time, PyTorch / kdhash",
        "of_floor": "of the floor",
    },
    "kernels": {
        "network": "network",
        "loss": "loss",
        "kind": "kernels",
        "number": "number a step",
        "ms": "ms a step",
        "share": "share",
    },
    "order": {
        "devices": "devices",
        "network": "network",
        "own_ms": "XLA's own order ms",
        "fewest_ms": "fewest bytes ms",
        "ratio": "own / fewest",
        "cpu_ratio": "by processor time",
        "own_mb": "own MB",
        "fewest_mb": "fewest MB",
    },
    "losses": {
        "loss": "loss",
        "items": "items",
        "call": "call",
        "kdhash_ms": "kdhash ms",
        "floor_ms": "floor ms",
        "of_floor": "of the floor",
        "passes": "passes",
        "ratio_eager": "PyTorch / kdhash",
        "ratio_compile": "torch.compile / kdhash",
    },
    "teachers": {
        "network": "network",
        "dtype": "dtype",
        "attention": "attention",
        "pictures": "batch",
        "kdhash_per_s": "kdhash pictures/s",
        "ratio_eager": "PyTorch / kdhash",
        "ratio_compile": "torch.compile / kdhash",
        "ratio_autotune": "max-autotune / kdhash",
        "of_matmul": "of the matrix rate",
        "apart": "apart",
    },
    "pipeline": {
        "devices": "devices",
        "input": "input",
        "pictures": "pictures a step",
        "step_ms": "step alone ms",
        "ms": "with input ms",
        "idle": "idle",
        "fetch_per_s": "input alone, pictures/s",
    },
    "decode": {
        "format": "format",
        "size": "pixels a side",
        "threads": "threads",
        "us": "µs a picture",
    },
    "engines": {
        "engine": "engine",
        "load": "load s",
        "first": "first s",
        "one": "one query ms",
        "many": "queries/s",
        "of_exact": "of exact",
        "recall": "recall",
        "same": "same distances",
    },
}
# Of the runs below: what the table calls them.
WHOLE = {
    ("dmth-resnets", "cifar10-2-64bits-seed0"): "12 heads, three ResNet-8 of ten epochs",
    ("beyond", "two_views-cached-seed0"): "2 heads, a ResNet-20 of width 20, 200 epochs in bfloat16",
    ("beyond", "two_views-seed0"): "the same for 100 epochs, with the teacher's networks in every step",
}
STAGES = ("data", "features", "teacher", "student", "evaluate")


def blocks(results: Path) -> dict[str, Callable[[], str]]:
    """Every block by its name in a marker; made when called."""
    found: dict[str, Callable[[], str]] = {}
    for benchmark in COLUMNS:
        found[f"{FOLDER}/{CPU}/{benchmark}"] = partial(of_cpu, results, benchmark)
        found[f"{FOLDER}/accelerators/{benchmark}"] = partial(of_accelerators, results, benchmark)
    # Of a CPU, kernels run side by side, and docs/scale.md has the engines; no accelerator decodes or is divided.
    for name in (f"{CPU}/kernels", f"{CPU}/engines", "accelerators/decode", "accelerators/order"):
        del found[f"{FOLDER}/{name}"]
    return found | {f"{FOLDER}/runs": partial(whole_runs, results)}


def of_cpu(results: Path, benchmark: str) -> str:
    return section(benchmark, read_device(results / FOLDER / CPU)) or NOTHING


def of_accelerators(results: Path, benchmark: str) -> str:
    """A section for each device that has been measured."""
    folders = sorted(path for path in (results / FOLDER).glob("*") if path.is_dir() and path.name != CPU)
    sections = [section(benchmark, read_device(folder)) for folder in folders]
    return "\n\n".join(text for text in sections if text) or NOTHING


def read_device(folder: Path) -> list[Document]:
    """What was measured on a device, by job. Raises ValueError naming a damaged file."""
    found = []
    for path in sorted(folder.glob("*.json")):
        document = condense.read_json(path, {"benchmark", "machine", "rows"}, "measure it again")
        found.append(document | {"job": path.stem})
    return found


def section(benchmark: str, documents: Sequence[Document]) -> str:
    """The rows of a benchmark on one device, under what they were measured with; nothing where there are none."""
    source = "training" if benchmark == "kernels" else benchmark
    used = [one for one in documents if one["benchmark"] == source]
    rows = [{"devices": one["machine"]["devices"], **row} for one in used for row in one["rows"]]
    if benchmark == "kernels":
        rows = [row | kind for row in rows for kind in row.get("kernels", [])]
    if len({row["devices"] for row in rows}) == 1:
        rows = [{name: value for name, value in row.items() if name != "devices"} for row in rows]
    if not rows:
        return ""
    head, foot = [_machines([one["machine"] for one in used])], []
    if benchmark == source:  # what is said of the training need not be said once more
        head += ["\n".join("    " + one["machine"]["command"] for one in used)]
        head += [_rates([one["ceilings"] for one in used if "ceilings" in one])]
        foot = [
            f"`{one['job']}` {one['ended']}: the table has what it measured."
            for one in used
            if "ended" in one
        ]
    parts = [*head, table(COLUMNS[benchmark], rows), *foot]
    return "\n\n".join(part for part in parts if part)


def table(columns: dict[str, str], rows: Sequence[dict[str, Any]]) -> str:
    shown = {key: title for key, title in columns.items() if any(key in row for row in rows)}
    if any("failed" in row for row in rows):
        shown["failed"] = "failed"
    lines = [list(shown.values()), ["---"] * len(shown)]
    lines += [[_shown(row.get(key)) for key in shown] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def whole_runs(results: Path) -> str:
    """Seconds by stage, and what the last student, the taught one, then has."""
    lines = [
        "| run | what it trains | on | " + " | ".join(f"{stage} s" for stage in STAGES) + " | mAP@all |",
        "|---|---|---|" + "---:|" * (len(STAGES) + 1),
    ]
    for (name, run), words in WHOLE.items():
        path = results / name / f"{run}.json"
        if not path.is_file():
            continue
        document = condense.read(path)
        score = [row["metrics"]["map@all"] for row in document["rows"] if row["group"] == "student"][-1]
        seconds = [f"{document['seconds'].get(stage, 0):,.0f}" for stage in STAGES]
        where = f"{document['machine']['device']}, {document['machine']['runs_beside']} beside"
        lines.append(f"| `{name} {run}` | {words} | {where} | {' | '.join(seconds)} | {cell(score)} |")
    return "\n".join(lines) if len(lines) > 2 else NOTHING


def _machines(machines: Sequence[dict[str, Any]]) -> str:
    """One device's, whose files may be of several versions."""
    each = []
    for one in machines:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        each.append(f"{one['device']}, {one['cores']} cores; {versions}")
    loads = [one["load"] for one in machines]
    return f"{'; '.join(dict.fromkeys(each))}; load at the start {_span(loads)}."


def _rates(rates: Sequence[dict[str, float]]) -> str:
    if not rates:
        return ""
    products = ", ".join(
        f"{name} {_span([one[name] / 1e12 for one in rates])}" for name in rates[0] if name != "bandwidth"
    )
    return (
        f"Measured ceilings: matrix products, TFLOP/s: {products}; "
        f"copy, GB/s: {_span([one['bandwidth'] / 1e9 for one in rates])}."
    )


def _span(values: Sequence[float]) -> str:
    least, most = _shown(float(min(values))), _shown(float(max(values)))
    return least if least == most else f"{least} to {most}"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
